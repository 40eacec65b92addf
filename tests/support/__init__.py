"""What tests share. Look here before you write a helper; a folder's ``conftest.py`` only makes fixtures of these.

Waiting and processes:

- ``waits``: ``wait_for``, the one way to wait for something.
- ``kvstore``: ``Kvstore``, a kvstore process that can be killed and started again.
- ``stack``: ``running_stack`` and ``Stack``, a whole ``quire serve``, watched for what it leaves behind.
- ``entrance``: ``running_entrance`` in this process, and ``WrittenNode``, which answers as a test says.
- ``declared_nodes``: ``declared_node``, a stack that follows a store of declarations, and ``declare``, which says them;
  ``valkey_server``: such a store.
- ``operated``: ``Operated``, a stack and its admin API: engines as it lists them, and one of them drained.
- ``streams``: ``Streams``, answers that are the same whatever happens to a stack meanwhile.
- ``survival``: answers of every kind, what befalls their engines, and when two are the same.
- ``engine_loop``, ``engine_pair``: one engine, or two, in this process over a kvstore process.
- ``device_engine``: an engine process whose GPU is the recorder of driver calls, over memory that is really shared.
- ``mapped_weights``: what a model computes under its own attention, and in which memory its tensors lie.
- ``gateway``: ``GatewayProcess``, a gateway process over a tiny tokenizer; ``gateway_fixtures``: one for many tests.
- ``peer_engine``: an engine without a model, for tests of the gateway.
- ``puppet``: a model that plays scripts, tool calls among them; ``puppet_chats``, ``puppet_responses``: what is asked
  of it and told; ``puppet_stage``: a gateway and a peer engine that plays it, one for many tests.
- ``traced_stack``: a gateway, a kvstore and two engines that send their spans to ``otlp_receiver``; ``recorded_spans``:
  a tracer for one of them alone.
- ``client_environments``: ``client_environment``, where a foreign program is installed; skips where it cannot be.
- ``framework_chat``: a program that sends one chat through an agent framework, in that framework's environment.
- ``children``: ``child``, a process that has said a line and is killed at the end; ``holding_client`` holds blocks
  (``hold_blocks`` is its program).
- ``forked_program``: a program that tells what a process of its own finds, however that was started.
- ``doctor``: single checks of ``quire doctor``, the whole command under limits and in namespaces, model directories.
- ``browser``: a headless Chromium and its page.
- ``quire_command``: the ``quire`` command in this process, and what its complaints must look like.

Clients and servers:

- ``raw_client``: a session over bare sockets, without the client library.
- ``service``: ``BareService``, dispatch and service without a socket, asked in bytes.
- ``hub_server``: a stand-in of the Hugging Face hub, with its endpoints and errors.
- ``http_server``: the gateway's HTTP server around any application, and ``RawConnection`` to it.

The kvstore without processes:

- ``store``: all ops as methods over one state.
- ``driver``: sequences over a store and a stamped arena.
- ``side_socket``: connections and the deaths of processes, as objects.
- ``frame_fuzzer``, ``slow_disk``: damaged requests; a disk that saves when it is told to.

Memory and models:

- ``stamped_arena``: ``StampedArena``, whose slots hold a hash of the tokens up to them, in memory or mapped.
- ``cuda_stand_in``: ``CudaStandIn``, what torch.cuda does with captures and streams, failures included, without a GPU.
- ``rounded_cache``: transformers' cache, rounded as a pool in e4m3 rounds.
- ``reference``, ``dense_attention``: what transformers and plain attention say.
- ``families``, ``chat_templates``: tiny models of all families; templates for tool turns.
- ``bare_loop``: a scheduler without a kvstore.
- ``grammars``: a vocabulary of letters for models without text, and random grammars.
- ``cpu_attention``: problems for the kernels of attention on a CPU.
- ``host_library``: skips where nothing can be compiled.
- ``kustomization``: a kustomization, resolved, where there is no kustomize.
- ``ports``, ``repository``: free ports; the source tree, its scripts, and the environment of children.
"""
