"""Rows that everyone in a comparison reads: instruction files as conversations, preference files as pairs."""

import json
from pathlib import Path

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def records(path):
    text = Path(path).read_text()
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def conversation(record):
    """A row of alpaca's columns, or one that is a conversation already."""
    if "messages" in record:
        return {"messages": [{"role": m["role"], "content": m["content"]} for m in record["messages"]]}
    question = "\n".join(filter(None, [record["instruction"], record.get("input")]))
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": record["output"]}]}


def pair(record):
    """A prompt in messages with two answers, or LLaMA-Factory's ranking layout."""
    if "prompt" in record:
        return {key: record[key] for key in ("prompt", "chosen", "rejected")}
    prompt = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in record["conversations"]]
    answer = lambda key: [{"role": "assistant", "content": record[key]["value"]}]
    return {"prompt": prompt, "chosen": answer("chosen"), "rejected": answer("rejected")}


def write(source, kind, path):
    """Writes the file `source` as JSON lines of `kind`: `conversations` or `pairs`."""
    one = {"conversations": conversation, "pairs": pair}[kind]
    Path(path).write_text("".join(json.dumps(one(record)) + "\n" for record in records(source)))


def repeated(rows, count):
    """At least `count` rows, the same ones again where there are fewer."""
    return rows * -(-count // len(rows)) if rows else rows
