"""A conversation by LangChain: `langchain_chat.py chat|responses`, with the mesh of $CHATMESH_SCENE.

Runs in the environment of requirements/frontends.lock. Prints what it saw as JSON; then leaves a long answer midway,
prints "left", and lives on until its standard input ends.
"""

import json
import os
import sys

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI


def main(dialect: str) -> None:
    scene = json.loads(os.environ["CHATMESH_SCENE"])
    models = [
        ChatOpenAI(
            model=scene["model"],
            base_url=url,
            api_key=scene["key"],
            use_responses_api=dialect == "responses",
            stream_usage=True,
            max_retries=0,
            timeout=30,
        )
        for url in scene["urls"]
    ]
    history: list[BaseMessage] = []
    turns = []
    for model, text in zip(models, ("First.", "Second."), strict=True):
        history.append(HumanMessage(text))
        answer = streamed(model, history)
        history.append(AIMessage(answer.content, id=answer.id, response_metadata=answer.response_metadata))
        turns.append({"text": answer.text, "usage": answer.usage_metadata})
    whole = models[0].invoke([("system", "Repeat."), ("human", "Third.")])
    turns.append({"text": whole.text, "usage": whole.usage_metadata})
    print(json.dumps(turns), flush=True)
    leave(models[0], scene["long"])


def streamed(model: ChatOpenAI, history: list[BaseMessage]) -> AIMessageChunk:
    """The chunks of an answer, added up."""
    chunks = [chunk for chunk in model.stream(history) if isinstance(chunk, AIMessageChunk)]
    answer = chunks[0]
    for chunk in chunks[1:]:
        answer = answer + chunk
    return answer


def leave(model: ChatOpenAI, text: str) -> None:
    """Close the stream of an answer at its first words."""
    stream = model.stream(text)
    for chunk in stream:
        if chunk.text:
            break
    stream.close()
    print("left", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
