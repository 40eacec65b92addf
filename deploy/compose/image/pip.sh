#!/bin/sh
# pip install, as the build's secrets say: pip_config (a pip.conf: index, proxy), ca_bundle (certificates to trust).
# Neither stays in the image.
set -eu
[ ! -s /run/secrets/ca_bundle ] || export PIP_CERT=/run/secrets/ca_bundle SSL_CERT_FILE=/run/secrets/ca_bundle
[ ! -s /run/secrets/pip_config ] || export PIP_CONFIG_FILE=/run/secrets/pip_config
exec "$@"
