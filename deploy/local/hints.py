"""What a user can try once everything is up."""

_TEXT = """
chatmesh is ready at {address}   (model: {model})
{memory}
Three things to try, in another terminal:

1. Watch the tokens arrive (server-sent events):

   curl -N {address}/v1/responses -H 'content-type: application/json' \\
     -d '{{"model": "{model}", "input": "What is the capital of France?", "stream": true}}'

2. The unmodified OpenAI SDK (.venv/bin/python has it):

   from openai import OpenAI
   client = OpenAI(base_url="{address}/v1", api_key="none")
   with client.responses.stream(model="{model}", input="What is the capital of France?") as stream:
       for event in stream:
           if event.type == "response.output_text.delta":
               print(event.delta, end="", flush=True)

3. A second turn, which knows the first:

   first = stream.get_final_response()
   second = client.responses.create(model="{model}", previous_response_id=first.id, input="And of Italy?")
   print(second.output_text)

{traces}Metrics: the endpoints stand in {targets_file}. Logs: {log_dir}. Ctrl-C ends everything.
"""

MEMORY_NOTE = (
    "The embedded broker keeps everything in memory: what streams when you stop it is lost, and its memory grows\n"
    "while it runs. KAFKA_BOOTSTRAP_SERVERS=host:port uses a real Kafka; `make kafka` starts one.\n"
)


def hints(
    address: str, model: str, log_dir: str, targets_file: str, *, in_memory: bool, trace_ui: str | None = None
) -> str:
    """The text that `make run` ends its start with; `trace_ui`: where its traces can be seen."""
    memory = MEMORY_NOTE if in_memory else ""
    traces = f"Traces: {trace_ui}. " if trace_ui else ""
    return _TEXT.format(
        address=address, model=model, log_dir=log_dir, targets_file=targets_file, memory=memory, traces=traces
    )
