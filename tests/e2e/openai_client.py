"""The unmodified `openai` package of PyPI against a gateway: URL, chat model, and where there is one a model of vectors."""

import sys

from openai import BadRequestError, NotFoundError, OpenAI

url, chat, *vectors = sys.argv[1:]
client = OpenAI(base_url=url, api_key="none", max_retries=0)

names = [model.id for model in client.models.list()]
assert chat in names and all(name in names for name in vectors), names

messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is a block?"}]
ask = {"model": chat, "messages": messages, "max_tokens": 30, "temperature": 0}
whole = client.chat.completions.create(**ask)
text = whole.choices[0].message.content
assert text and whole.usage.completion_tokens <= 30, whole

pieces, usage = [], None
for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
    pieces += [choice.delta.content or "" for choice in chunk.choices]
    usage = chunk.usage or usage
assert "".join(pieces) == text, (pieces, text)
assert usage == whole.usage, (usage, whole.usage)

try:
    client.chat.completions.create(**ask, n=2)
    raise AssertionError("n = 2 was taken")
except BadRequestError as error:
    assert error.param == "n", error
try:
    client.chat.completions.create(**(ask | {"model": "gpt-4o"}))
    raise AssertionError("an unknown model was taken")
except NotFoundError as error:
    assert error.code == "model_not_found", error

for model in vectors:
    # The client asks for base64 by itself.
    rows = client.embeddings.create(model=model, input=["one", "two"])
    assert [len(row.embedding) for row in rows.data] == [384, 384]
    plain = client.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
    far = max(abs(a - b) for a, b in zip(rows.data[1].embedding, plain.data[1].embedding))
    assert far <= 1e-6, far
print("ok")
