# One file, a stage for each role:
#   kvstore   pyzmq, msgpack, numpy, structlog: no torch
#   gateway   HTTP server and tokenizer: no torch
#   quire     all of it on CPUs, torch's CPU build: engines, `quire prepare`, and `quire serve` in one container
#   gpu       the same with torch's CUDA build, Triton with the C compiler that it calls, cuda-bindings
#
#   docker build -t quire . && docker run --shm-size 4g -p 127.0.0.1:8000:8000 -v /models/qwen:/models/qwen:ro quire \
#       serve --model /models/qwen --engines 2 --host 0.0.0.0 --published-host 127.0.0.1
#
# Arguments: BASE (a Debian with Python 3.11 or later, pip and venv), QUIRE_UID (all processes run as this user, since
# sockets and shared memory are open to their owner alone), TORCH_INDEX (scripts/install_torch.py).
# Secrets: pip_config (a pip.conf), ca_bundle (certificates); compose.build.yaml hands over both. None stays in an image.
# Dependencies are installed before the sources are there, so that a changed line installs no package again.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
ARG QUIRE_UID=10001
# HOME: a read-only container has /tmp alone. The cache is a folder in which what is compiled may be executed.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 HF_HUB_OFFLINE=1 HOME=/tmp \
    XDG_CACHE_HOME=/var/cache/quire TRITON_CACHE_DIR=/var/cache/quire/triton \
    QUIRE_SERVE_RUN_DIR=/run/quire PATH=/opt/quire/bin:$PATH
# The folders exist with their owner in the image: a named volume takes both over from here.
RUN groupadd --gid "$QUIRE_UID" quire \
    && useradd --uid "$QUIRE_UID" --gid "$QUIRE_UID" --no-create-home --shell /usr/sbin/nologin quire \
    && install -d -m 0700 -o quire -g quire /run/quire /var/cache/quire \
    && install -d -m 0755 -o quire -g quire /models/demo /models/hub

# What is to be installed for each role. The stages below see these lists and not pyproject.toml, which changes more often.
FROM base AS wanted
WORKDIR /wanted
COPY deploy/compose/image/requirements.py pyproject.toml ./
RUN python3 requirements.py kvstore >kvstore && python3 requirements.py gateway >gateway \
    && python3 requirements.py engine quantised gateway >cpu \
    && python3 requirements.py gpu quantised gateway >gpu

# What is installed, is installed here; the stages at the end take the folder over.
FROM base AS pip
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY deploy/compose/image/pip.sh constraints.txt ./
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    python3 -m venv /opt/quire && ./pip.sh pip install "$(grep '^pip==' constraints.txt)"

FROM pip AS kvstore-packages
COPY --from=wanted /wanted/kvstore wanted
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    ./pip.sh pip install -c constraints.txt -r wanted

FROM pip AS gateway-packages
COPY --from=wanted /wanted/gateway wanted
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    ./pip.sh pip install -c constraints.txt -r wanted

FROM pip AS torch
ARG TORCH_INDEX
COPY scripts/install_torch.py scripts/plain_pip.py scripts/
COPY --from=wanted /wanted/cpu wanted
# Headers, tests and pip are two hundred megabytes that nothing here reads.
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    ./pip.sh python3 scripts/install_torch.py --build cpu \
    && ./pip.sh pip install -c constraints.txt -r wanted \
    && cd /opt/quire/lib/python3.*/site-packages \
    && rm -rf torch/include torch/test torch/share torch/bin/protoc* \
    && find . -name tests -type d -prune -exec rm -rf {} + && rm -rf pip pip-*

FROM pip AS torch-gpu
ARG TORCH_INDEX
COPY scripts/install_torch.py scripts/plain_pip.py scripts/
COPY --from=wanted /wanted/gpu wanted
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    ./pip.sh python3 scripts/install_torch.py --build gpu \
    && ./pip.sh pip install -c constraints.txt -r wanted

# Compiled for processors with AVX2 and for those with AVX-512, so that engines need no compiler.
FROM base AS kernels
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY scripts/prebuild_kernels.py scripts/
COPY kernels kernels
RUN python3 scripts/prebuild_kernels.py /kernels

FROM pip AS wheel
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    ./pip.sh pip install -c constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY kvstore kvstore
COPY kernels kernels
COPY engine engine
COPY services services
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && python3 -m venv /unpacked && pip --python /unpacked install --no-deps --no-index /wheel/*.whl \
    && sed -i '1s|/unpacked/|/opt/quire/|' /unpacked/bin/quire && mkdir /own && cd /unpacked \
    && cp -a --parents bin/quire lib/python3.*/site-packages/quire_* /own

FROM base AS kvstore
COPY --from=kvstore-packages /opt/quire /opt/quire
COPY --from=wheel /own /opt/quire
ARG QUIRE_UID=10001
USER ${QUIRE_UID}:${QUIRE_UID}
WORKDIR /
ENTRYPOINT ["quire"]
CMD ["kvstore", "--help"]

FROM base AS gateway
COPY --from=gateway-packages /opt/quire /opt/quire
COPY --from=wheel /own /opt/quire
ARG QUIRE_UID=10001
USER ${QUIRE_UID}:${QUIRE_UID}
WORKDIR /
ENTRYPOINT ["quire"]
CMD ["gateway", "--help"]

FROM base AS quire
# An allocator that engines preload. Intel's OpenMP, which they would as well, comes under a licence that is its user's to accept.
RUN apt-get update && apt-get install -y --no-install-recommends libtcmalloc-minimal4 && rm -rf /var/lib/apt/lists/*
COPY --from=torch /opt/quire /opt/quire
COPY --from=kernels /kernels /opt/quire/share/quire/kernels
COPY deploy/compose/image/demo_model.py bench/models/tiny.py /opt/quire/share/quire/
COPY deploy/compose/image/container.sh /opt/quire/bin/
COPY --from=wheel /own /opt/quire
ARG QUIRE_UID=10001
USER ${QUIRE_UID}:${QUIRE_UID}
WORKDIR /
ENTRYPOINT ["quire"]
CMD ["serve", "--help"]

FROM base AS gpu
# Triton compiles its glue to the driver at the first launch, against Python's headers: Debian's Python has them apart.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev $( \
        python3 -c 'import os, sysconfig; \
            include = sysconfig.get_paths(scheme="posix_prefix")["include"]; \
            print("" if os.path.exists(f"{include}/Python.h") else "python3-dev")') \
    && rm -rf /var/lib/apt/lists/*
COPY --from=torch-gpu /opt/quire /opt/quire
COPY deploy/compose/image/demo_model.py bench/models/tiny.py /opt/quire/share/quire/
COPY deploy/compose/image/container.sh /opt/quire/bin/
COPY --from=wheel /own /opt/quire
ARG QUIRE_UID=10001
USER ${QUIRE_UID}:${QUIRE_UID}
WORKDIR /
ENTRYPOINT ["quire"]
CMD ["serve", "--help"]
