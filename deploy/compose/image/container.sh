#!/bin/sh
# Starts one process of the stack in a container: container.sh demo-model | prepare | engine | engine-ready
#
#   demo-model    makes the model that is served where none is named; ends
#   prepare       reads the model for the others; ends
#   engine        an engine, named after its container: engine-2 is the second container of the service `engine`
#   engine-ready  whether the engine of this container has a session that is ready
set -eu
name_file=/tmp/engine-name

case "$1" in
demo-model)
    [ -n "${MODEL:-}" ] || [ -e /models/demo/config.json ] ||
        exec python3 /opt/quire/share/quire/demo_model.py /models/demo
    ;;
prepare)
    # What begins with a slash is a folder; anything else is a name on the hub (compose.hub.yaml).
    if [ "${QUIRE_SERVE_MODEL#/}" != "$QUIRE_SERVE_MODEL" ] && ! [ -r "$QUIRE_SERVE_MODEL/config.json" ]; then
        echo "quire: MODEL=${MODEL:-} has no config.json that uid $(id -u) may read: name the folder that holds the model's" \
            "files, with real files in it (no links out of it), and let others read it (chmod -R o+rX)" >&2
        exit 2
    fi
    exec quire prepare --out=/run/quire/prepared.json
    ;;
engine)
    # The container's name, from the address that it has in the project's network: quire-engine-2.quire_default
    found=$(getent -s dns hosts "$(hostname -i | cut -d ' ' -f 1)" | awk '{print $2}' || true)
    found=${found%%.*}
    number=${found##*[-_]}
    case "$number" in
    '' | *[!0-9]*) name=engine-$(hostname) ;;
    *) name=engine-$number ;;
    esac
    echo "$name" >"$name_file"
    exec quire engine --name="$name"
    ;;
engine-ready)
    exec quire status --session="$(cat "$name_file")"
    ;;
*)
    echo "container.sh: $1 is none of demo-model, prepare, engine, engine-ready" >&2
    exit 2
    ;;
esac
