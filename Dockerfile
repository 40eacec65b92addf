# One file, one stage a role. Base images can be replaced: docker build --build-arg BASE=... --target engine .
#   kvstore   pyzmq, msgpack, numpy, structlog: no torch
#   engine    adds transformers and torch's CPU build; also runs `quire prepare`
#   gateway   HTTP server and tokenizer
#   gpu       kvstore and engine on a GPU: torch's CUDA build, Triton with the C compiler that it calls, cuda-bindings
# The CPU build comes from PyTorch's index, or from the one in --build-arg TORCH_INDEX (scripts/install_torch.py).
# All run as the same uid, because sockets and shared memory are open to their owner only.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HUB_OFFLINE=1 HOME=/tmp PATH=/opt/quire/bin:$PATH
# The directory exists with its owner in the image: a named volume takes both over from here.
RUN groupadd --gid 10001 quire && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin quire \
    && install -d -m 0700 -o quire -g quire /run/quire && python3 -m venv /opt/quire
WORKDIR /opt/quire/src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install "$(grep '^pip==' constraints.txt)"
COPY scripts/install_torch.py scripts/plain_pip.py scripts/
COPY proto proto
COPY kvstore kvstore
COPY kernels kernels
COPY engine engine
COPY services services

FROM base AS kvstore
RUN pip install -c constraints.txt '.[kvstore]'
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["quire"]
CMD ["kvstore", "--help"]

FROM base AS gateway
RUN pip install -c constraints.txt '.[gateway]'
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["quire"]
CMD ["gateway", "--help"]

FROM base AS engine
ARG TORCH_INDEX
RUN python3 scripts/install_torch.py --build cpu && pip install -c constraints.txt '.[engine,gateway]'
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["quire"]
CMD ["engine", "--help"]

FROM base AS gpu
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python3 scripts/install_torch.py --build gpu && pip install -c constraints.txt '.[gpu,gateway]'
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["quire"]
CMD ["engine", "--help"]
