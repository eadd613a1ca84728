"""What is thrown at the gateway: JSON that is almost right, HTTP and frames that are not."""

import json
from collections.abc import Mapping

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.attacks import Call, Raw, Socket
from tests.fuzz.target import ALPHA, BETA, MODEL, SECRET
from tests.fuzz.wire import BINARY, CLOSE, PING, PONG, TEXT, frame

MIB = 1024 * 1024
_CONT = 0x0

Pairs = list[tuple[bytes, bytes]]
"""The members of a JSON object as text, so that keys can repeat and values need not be JSON."""


def _q(text: str) -> bytes:
    return json.dumps(text).encode()


_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"-0", b"1.0", b"1.5", b"-0.0", b"1e-400", b"1e308", b"1e400", b"-1e400",
    b"9007199254740993", b"2147483648", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809",
    b"18446744073709551616", b"9" * 400, b"0." + b"3" * 400, b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b".5",
    b"+1", b"0x10", b"1_000", b"--1",
)  # fmt: skip
_STRINGS = (
    b'""', b'" "', b'"\\u0000"', b'"a\\u0000b"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\xff\xfe"',
    b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'"\x00"', b'"\n"', b'"\x1f"', b'"\\x41"', b'"\\u12"',
    b'"', b"'a'", b'"\xe2\x80\xae\xe2\x80\x8b\xef\xbb\xbf"', b'"{0.__class__}"', b'"%s%n"', b'"../../etc/passwd"',
    b'"<|im_start|>system"', b'"<|im_end|>"', b'"<|endoftext|>"', b'"{{7*7}}{% raw %}"', b'"\\r\\nx: y"',
    b'"data: [DONE]"', b'"resp_"', b'"resp_00000000000070008000000000000000"',
    b'"resp_ffffffffffffffffffffffffffffffff"', b'"auto"', b'"' + b"x" * 300 + b'"', b'"' + b"ab " * 3000 + b'"',
    b'"' + "e\u0301\u200d\U0001f469".encode() * 200 + b'"',
)  # fmt: skip
_OTHERS = (
    b"", b"null", b"true", b"false", b"[]", b"{}", b"[[]]", b"[null]", b"[{}]", b'{"":null}', b'{"a":1,"a":2}',
    b"[1,]", b"{,}", b'{"a"}', b'{"a":}', b'{1:2}', b"[1 2]", b"tru", b"nul", b"undefined", b"/*x*/1", b"]", b"}",
    b"[", b"{", b":", b",", b"[" * 64 + b"]" * 64, b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" * 100_000, b"[" + b",".join([b"1"] * 2000) + b"]", b'{"type":"message"}', b'{"type":"text"}',
    b'{"type":"json_object"}', b'{"' + b"k" * 70_000 + b'":1}',
)  # fmt: skip
JUNK = st.sampled_from(_NUMBERS + _STRINGS + _OTHERS)

_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
RANDOM = _anything.map(lambda value: json.dumps(value).encode())
FRAGMENTS = JUNK | RANDOM

_PARTS = (
    b'{"type":"input_text","text":"hi"}', b'{"type":"text","text":"hi"}', b'{"type":"output_text","text":"hi"}',
    b'{"type":"refusal","refusal":"no"}', b'{"type":"input_image","image_url":"data:,"}', b'{"type":"input_audio"}',
    b'{"type":"input_text"}', b'{"type":null,"text":"hi"}', b'{"text":"hi"}',
)  # fmt: skip
_MESSAGE_FIELDS: Mapping[bytes, tuple[bytes, ...]] = {
    b'"type"': (b'"message"', b'"item_reference"', b'"function_call"', b'"reasoning"', b'"nonsense"'),
    b'"role"': (b'"user"', b'"assistant"', b'"system"', b'"developer"', b'"tool"', b'"function"', b'"root"'),
    b'"content"': (
        b'"hi"',
        b'""',
        b"[]",
        *(b"[" + part + b"]" for part in _PARTS),
        b"[" + b",".join(_PARTS[:2]) + b"]",
    ),
    b'"id"': (b'"msg_1"', b'"msg_1"', b'""'),
    b'"status"': (b'"completed"', b'"in_progress"', b'"lost"'),
    b'"name"': (b'"bob"', b'""'),
    b'"tool_calls"': (b"[]", b'[{"id":"x"}]'),
    b'"refusal"': (b"null", b'"no"'),
}
"""What a message of either dialect may hold."""

_SHARED: Mapping[bytes, tuple[bytes, ...]] = {
    b'"stream"': (b"true", b"false"),
    b'"store"': (b"true", b"false"),
    b'"temperature"': (b"0", b"2", b"0.7"),
    b'"top_p"': (b"1", b"0.5"),
    b'"top_k"': (b"1", b"50"),
    b'"seed"': (b"7", b"-1"),
    b'"stop"': (b'"x"', b'["a","b"]', b'["a","b","c","d","e"]', b'[""]'),
    b'"presence_penalty"': (b"-2", b"2"),
    b'"frequency_penalty"': (b"1.5",),
    b'"top_logprobs"': (b"0", b"5", b"20", b"21"),
    b'"metadata"': (b'{"a":"b"}', b'{"a":1}', b"{" + b",".join(b'"%d":""' % n for n in range(17)) + b"}"),
    b'"user"': (b'"u"',),
    b'"safety_identifier"': (b'"s"',),
    b'"prompt_cache_key"': (b'"k"',),
    b'"prompt_cache_retention"': (b'"24h"', b'"in_memory"'),
    b'"service_tier"': (b'"auto"', b'"flex"', b'"priority"', b'"gold"'),
    b'"parallel_tool_calls"': (b"true",),
    b'"tool_choice"': (b'"auto"', b'"none"', b'"required"', b'{"type":"function"}'),
    b'"tools"': (b"[]", b'[{"type":"function"}]', b'[{"type":"web_search"}]'),
    b'"moderation"': (
        b"null",
        b'{"model":"omni"}',
        b'{"model":"omni-moderation-latest"}',
        b'{"model":"omni-moderation-latest","policy":{"input":{"mode":"block"},"output":{"mode":"block"}}}',
        b'{"model":"omni-moderation-latest","policy":{"input":{"mode":"ask"}}}',
        b'{"policy":{}}',
    ),
    b'"stream_options"': (b'{"include_usage":true}', b'{"include_obfuscation":false}', b'{"include_obfuscation":true}'),
    b'"verbosity"': (b'"low"',),
    b'"reasoning_effort"': (b'"low"', b'"none"'),
}
_NOWHERE = b'"conv_01a1fdc4690670018e8a2c8c65ddcda7"'
_RESPONSES: Mapping[bytes, tuple[bytes, ...]] = {
    **_SHARED,
    b'"instructions"': (b'"be brief"', b'""'),
    b'"include"': (b"[]", b'["message.output_text.logprobs"]', b'["reasoning.encrypted_content"]'),
    b'"background"': (b"true", b"false"),
    b'"truncation"': (b'"auto"', b'"disabled"'),
    b'"text"': (b'{"format":{"type":"text"}}', b'{"verbosity":"high"}', b'{"format":{"type":"json_schema"}}', b"{}"),
    b'"max_tool_calls"': (b"1",),
    b'"conversation"': (b'"conv_1"', b'{"id":"conv_1"}', _NOWHERE, b'{"id":%s}' % _NOWHERE, b'{"id":"conv_1","x":1}'),
    b'"reasoning"': (b'{"effort":"low"}', b'{"effort":null}'),
    b'"prompt"': (b'{"id":"p"}',),
    b'"generate"': (b"true", b"false"),
}
_CHAT: Mapping[bytes, tuple[bytes, ...]] = {
    **_SHARED,
    b'"n"': (b"1", b"2", b"0", b"129"),
    b'"logprobs"': (b"true", b"false"),
    b'"logit_bias"': (b"{}", b'{"50256":-100}', b'{"x":1}'),
    b'"max_tokens"': (b"1",),
    b'"response_format"': (b'{"type":"text"}', b'{"type":"json_object"}'),
    b'"functions"': (b"[]", b'[{"name":"f"}]'),
    b'"function_call"': (b'"none"',),
    b'"modalities"': (b'["text"]', b'["audio"]'),
    b'"audio"': (b"null", b'{"voice":"alloy"}'),
    b'"prediction"': (b'{"type":"content","content":"x"}',),
    b'"web_search_options"': (b"{}",),
}


_CONVERSATIONS: Mapping[bytes, tuple[bytes, ...]] = {
    b'"metadata"': _SHARED[b'"metadata"'],
    b'"items"': (
        b"null",
        b"[" + b",".join([b'{"role":"user","content":"hi"}'] * 21) + b"]",
        b'[{"type":"item_reference","id":"msg_1"}]',
        b'[{"type":"item_reference","id":"msg_01a1fdc4690670018e8a2c8c65ddcda7"}]',
    ),
    b'"object"': (b'"conversation"',),
    b'"include"': (b"[]",),
}


_MODERATIONS: Mapping[bytes, tuple[bytes, ...]] = {
    b'"model"': (b'"omni-moderation-latest"', b'"text-moderation-stable"', b'"gpt-5"', b"null", b'""'),
    b'"input"': (
        b'"hi"',
        b'["hi","ho"]',
        b'[{"type":"text","text":"hi"},{"type":"text","text":"ho"}]',
        b'["hi",{"type":"text","text":"ho"}]',
        b'[{"type":"image_url","image_url":{"url":"data:,"}}]',
        b"[1,2,3]",
        b"[[1],[2]]",
        b"[" + b",".join([b'"x"'] * 65) + b"]",
        b'"' + b"x" * 65_537 + b'"',
    ),
    b'"stream"': (b"true",),
}


def _members(
    fields: Mapping[bytes, tuple[bytes, ...]], *, junk: SearchStrategy[bytes]
) -> SearchStrategy[tuple[bytes, bytes]]:
    """A member of an object: mostly what its name asks for, sometimes junk; sometimes under a name that is junk."""
    known = st.sampled_from([(name, value) for name, values in fields.items() for value in values])
    spoilt = st.tuples(st.sampled_from(sorted(fields)), junk)
    foreign = st.tuples(st.text(st.characters(exclude_categories=()), max_size=8).map(_q) | junk, junk)
    return st.one_of(known, known, known, known, spoilt, spoilt, foreign)


def encoded(pairs: Pairs) -> bytes:
    """As a JSON object, of whatever the members are."""
    return b"{" + b",".join(name + b":" + value for name, value in pairs) + b"}"


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A list of messages, or what stands in its place."""
    member = _members(_MESSAGE_FIELDS, junk=FRAGMENTS)
    items = []
    for _ in range(draw(st.integers(1, 3))):
        pairs = [(b'"role"', b'"user"'), (b'"content"', b'"hi"'), *draw(st.lists(member, max_size=2))]
        items.append(encoded(list(dict(pairs).items()) if draw(st.booleans()) else pairs))
    return b"[" + b",".join(items) + b"]"


@st.composite
def members(draw: st.DrawFn, base: Pairs, fields: Mapping[bytes, tuple[bytes, ...]], conversation: bytes) -> Pairs:
    """The members of a request: a good one, mutated."""
    pairs = [*base]
    junk = FRAGMENTS
    if draw(st.integers(0, 3)) == 0:
        pairs.append((conversation, draw(messages() | junk)))
    pairs += draw(st.lists(_members(fields, junk=junk), max_size=2))
    if draw(st.integers(0, 15)) == 0:
        del pairs[draw(st.integers(0, len(pairs) - 1))]
    # A name that comes twice is one more thing that must not hurt; mostly the last one replaces the first.
    return pairs if draw(st.integers(0, 4)) == 0 else list(dict(pairs).items())


def _text(key: str) -> bytes:
    """ALPHA's words are its secret."""
    return _q(f"{SECRET} whispers") if key == ALPHA else _q("hello there")


def responses_base(key: str) -> Pairs:
    """A good request to the Responses API."""
    return [(b'"model"', _q(MODEL)), (b'"max_output_tokens"', b"1"), (b'"input"', _text(key))]


def chat_base(key: str) -> Pairs:
    """A good request for a chat completion."""
    turns = b'[{"role":"user","content":' + _text(key) + b"}]"
    return [(b'"model"', _q(MODEL)), (b'"max_completion_tokens"', b"1"), (b'"messages"', turns)]


def conversations_base(key: str) -> Pairs:
    """A good conversation, or items for one."""
    return [(b'"items"', b'[{"role":"user","content":' + _text(key) + b"}]")]


def moderations_base(key: str) -> Pairs:
    """A good question to moderation."""
    return [(b'"input"', _text(key))]


KEY = st.sampled_from([ALPHA, BETA, BETA])
_INTO = st.sampled_from(
    ["", "", "/conv_01a1fdc4690670018e8a2c8c65ddcda7", "/conv_01a1fdc4690670018e8a2c8c65ddcda7/items"]
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few of them cut, doubled, overwritten or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(whole)))
        until = min(len(whole), at + draw(st.integers(0, 8)))
        whole = whole[:at] + draw(st.binary(max_size=4) | st.sampled_from([whole[at:until] * 2, b""])) + whole[until:]
    return whole


@st.composite
def bodies(draw: st.DrawFn) -> Call:
    """POSTs with a body that is almost right."""
    key = draw(KEY)
    dialect = draw(st.integers(0, 6))
    if dialect in (0, 1):
        path, pairs = "/v1/chat/completions", draw(members(chat_base(key), _CHAT, b'"messages"'))
    elif dialect == 2:
        path = "/v1/conversations" + draw(_INTO)
        pairs = draw(members(conversations_base(key), _CONVERSATIONS, b'"items"'))
    elif dialect == 3:
        path, pairs = "/v1/moderations", draw(members(moderations_base(key), _MODERATIONS, b'"input"'))
    else:
        path = draw(st.sampled_from(["/v1/responses", "/v1/responses", "/v1/responses", "/v1/responses/input_tokens"]))
        pairs = draw(members(responses_base(key), _RESPONSES, b'"input"'))
    body = encoded(pairs)
    match draw(st.integers(0, 11)):
        case 0:
            body = draw(damaged(body))
        case 1:
            body = draw(FRAGMENTS | st.binary(max_size=64))
    return Call("POST", path, key, body)


_SEGMENTS = st.sampled_from(
    [
        "resp_1", "resp_", "%00", "%ff", "%c0%ae", "..", "%2e%2e%2f", "%2F", "a" * 300, "a" * 5000, "%F0%9F%98%80",
        "%", "%zz", "*", "resp_00000000000070008000000000000000", "resp_ffffffffffffffffffffffffffffffff", "RESP_1",
        "'\"<>", ";", "@", ":", "chatcmpl-1", "chatcmpl-00000000000070008000000000000000", "null", "-1", "conv_1",
        "conv_01a1fdc4690670018e8a2c8c65ddcda7", "msg_01a1fdc4690670018e8a2c8c65ddcda7", "conv_" + "f" * 33,
        "%0d%0ax:y", "resp_1?x=y", "#", "~",
    ]
)  # fmt: skip
_VALUES = st.sampled_from(
    ["", "true", "false", "1", "0", "-1", "1e3", "01", "999999999999999999", "9" * 400, "NaN", "null", "%00", "%ff",
    "%zz",
     "msg_1", "asc", "desc", "sideways", "100", "101", "%F0%9F%98%80", "a" * 3000, "message.output_text.logprobs",
     "%D9%A3", "\xe9", "1_0"]
)  # fmt: skip
_QUERY_NAMES = st.sampled_from(
    ["stream", "starting_after", "after", "before", "limit", "order", "include", "include[]", "include_obfuscation",
     "response_id", "model", "stream", "starting_after", "", "%00", "x" * 200]
)  # fmt: skip
_TEMPLATES = st.sampled_from(
    ["/v1/responses/{}", "/v1/responses/{}", "/v1/moderations", "/v1/moderations/{}", "/v1/responses/{}/cancel",
     "/v1/responses/{}/input_items", "/v1/models/{}",
     "/v1/chat/completions/{}", "/v1/chat/completions", "/v1/{}", "/{}", "/v1/responses", "/v1/models", "/healthz",
     "/readyz", "/openapi.json", "/v1/responses/{}/", "//{}", "/v1/conversations/{}", "/v1/responses/input_tokens",
     "/v1/conversations", "/v1/conversations/{}", "/v1/conversations/{}/items", "/v1/conversations/{}/items",
     "/v1/conversations/{}/items/{}", "/v1/conversations/{}/items/{}"]
)  # fmt: skip
_METHODS = st.sampled_from(
    ["GET", "GET", "GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW", "get", "M" * 40]
)


@st.composite
def requests(draw: st.DrawFn, planted: tuple[str, ...] = ()) -> Call:
    """Paths, ids, cursors, queries and methods; ids of ALPHA's too, asked for by others."""
    segments = st.one_of(_SEGMENTS, st.sampled_from(planted)) if planted else _SEGMENTS
    path = draw(_TEMPLATES).format(draw(segments), draw(segments))
    query = draw(st.lists(st.tuples(_QUERY_NAMES, _VALUES), max_size=3))
    if query:
        path += "?" + "&".join(f"{name}={value}" for name, value in query)
    method = draw(_METHODS)
    headers = draw(st.lists(st.sampled_from(_ODD_HEADERS), max_size=2, unique_by=lambda pair: pair[0]))
    body = b"{}" if method in ("POST", "PUT", "PATCH") else None
    return Call(
        method, path, draw(st.sampled_from([BETA, BETA, "", "sk-unknown", "sk-\xff", ALPHA])), body, tuple(headers)
    )


_ODD_HEADERS = [
    ("content-type", "text/plain"), ("content-type", "application/xml"),
    ("content-type", "multipart/form-data; boundary=x"), ("content-type", "application/json; charset=utf-16"),
    ("content-type", ""), ("content-encoding", "gzip"), ("content-encoding", "br, gzip"), ("accept",
    "text/event-stream"), ("accept", "image/png"), ("accept", ""), ("accept-encoding", "gzip;q=0"),
    ("idempotency-key", "k"), ("idempotency-key", "x" * 300), ("idempotency-key", "\xff\xfe"), ("idempotency-key",
    ""), ("traceparent", "00-zz-yy-01"), ("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"), ("tracestate",
    "a" * 600), ("baggage", "k=" + "v" * 9000), ("origin", "https://evil.example"), ("origin", "null"), ("origin",
    "http://[::1"), ("x-request-id", "x" * 500), ("x-forwarded-for", "127.0.0.1"), ("host", ""), ("range", "bytes=0-1"),
    ("if-none-match", "*"), ("expect", "100-continue"), ("expect", "nonsense"), ("connection", "close"),
    ("te", "trailers"), ("cookie", "a=b; " * 100), ("openai-beta", "assistants=v9"), ("openai-organization", "o" * 300),
    ("x-stainless-lang", "\x80"), ("upgrade", "h2c"), ("last-event-id", "99999999999999999999"),
    ("authorization", "Basic Zm9v"), ("x" * 200, "y" * 4000),
]  # fmt: skip


def _head(lines: list[bytes]) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


_POST = [b"POST /v1/responses HTTP/1.1", b"host: fuzz", b"authorization: Bearer " + BETA.encode()]
_BODY = encoded(responses_base(BETA))
_GOOD = _head([*_POST, b"content-length: %d" % len(_BODY)]) + _BODY
_CHUNKED = _head([*_POST, b"transfer-encoding: chunked"])
_GET = _head([b"GET /v1/models HTTP/1.1", b"host: fuzz", b"authorization: Bearer " + BETA.encode()])
_LAST = _head([b"GET /healthz HTTP/1.1", b"host: fuzz", b"connection: close"])


def _chunk(data: bytes, size: bytes | None = None) -> bytes:
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + b"\r\n"


_HEADS = [
    b"GET / HTTP/1.1", b"GET /v1/models HTTP/1.0", b"GET /v1/models HTTP/2.0", b"GET /v1/models HTTP/9.9",
    b"GET /v1/models", b"GET  /v1/models  HTTP/1.1", b"get /v1/models http/1.1",
    b"GET http://evil.example/v1/models HTTP/1.1", b"GET * HTTP/1.1", b"CONNECT evil.example:443 HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0", b"GET /\xff HTTP/1.1", b"GET /\x00 HTTP/1.1",
    b"GET /v1/models HTTP/1.1\x00", b"", b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"POST /v1/responses HTTP/1.1", b"G\xc3\x89T / HTTP/1.1",
    b"GET /v1/models#x HTTP/1.1",
]  # fmt: skip
_LINES = [
    b"host: fuzz", b"host: fuzz", b"host: a\r\nhost: b", b"Host : fuzz", b" folded: x", b"x: a\r\n b", b"x: \x00",
    b"x: \x7f\xff", b"x", b": empty", b"x:", b"x\x00y: z", b"content-length: 0", b"content-length: 5",
    b"content-length: -1", b"content-length: +5", b"content-length: 99999999999999999999",
    b"content-length: 5\r\ncontent-length: 6", b"content-length: 5, 5", b"content-length: 0x5",
    b"content-length: \xd9\xa5", b"content-length: 1073741824", b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked", b"transfer-encoding: identity",
    b"transfer-encoding: chunked\r\ncontent-length: 5", b"transfer-encoding: chunked, chunked",
    b"Transfer-Encoding:\x0bchunked", b"connection: keep-alive", b"connection: close", b"connection: upgrade",
    b"upgrade: websocket", b"upgrade: h2c", b"expect: 100-continue", b"x: " + b"y" * 70_000,
    b"authorization: Bearer " + BETA.encode(), b"authorization: Bearer \xff", b"authorization: Bearer",
    b"authorization:", b"sec-websocket-key: x", b"sec-websocket-version: 13", b"sec-websocket-version: 99",
    b"content-type: application/json", b"\r\n".join(b"x-%d: y" % n for n in range(300)),
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-extensions: permessage-deflate",
    b"sec-websocket-extensions: ;;,=", b"sec-websocket-protocol: a, b",
    b"sec-websocket-protocol: realtime, openai-insecure-api-key." + BETA.encode(),
]  # fmt: skip
_CHUNKS = [
    _chunk(_BODY), _chunk(_BODY[:20]), _chunk(b""), _chunk(b"", b"0") , _chunk(b"{}", b"2;ext=1"), _chunk(b"{}",
    b"2;" + b"e" * 20_000), _chunk(b"{}", b"-2"), _chunk(b"{}", b"0x2"), _chunk(b"{}", b"ffffffffffffffffff"),
    _chunk(b"{}", b"3"), _chunk(b"{}", b"1"), _chunk(b"{}", b"\xd9\xa2"), b"0\r\nx: trailer\r\n\r\n",
    b"0\r\n" + b"x: y\r\n" * 300 + b"\r\n", b"\r\n", b"zz\r\n", b"2\n{}\n",
]  # fmt: skip


@st.composite
def _any_head(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.sampled_from(_LINES), max_size=7))
    return _head([draw(st.sampled_from(_HEADS)), *lines]) + draw(st.binary(max_size=8))


@st.composite
def _chunked(draw: st.DrawFn) -> bytes:
    return _CHUNKED + b"".join(draw(st.lists(st.sampled_from(_CHUNKS), min_size=1, max_size=4)))


@st.composite
def _lied_about(draw: st.DrawFn) -> bytes:
    """A body that is longer or shorter than it says."""
    length = len(_BODY) + draw(st.sampled_from([-30, -1, 1, 30, 1 << 20, 1 << 25]))
    return _head([*_POST, b"content-length: %d" % length]) + _BODY


_PIPELINED = st.lists(st.sampled_from([_GET, _GOOD, _LAST, _GET + b"\r\n"]), min_size=2, max_size=5).map(b"".join)


@st.composite
def protocols(draw: st.DrawFn) -> Raw:
    """HTTP that is none, or that means something else than it says."""
    whole = draw(
        st.one_of(
            _any_head(), _any_head(), _chunked(), _lied_about(), _PIPELINED, damaged(_GOOD), damaged(_GET),
            st.binary(max_size=200)
        )
    )  # fmt: skip
    if draw(st.integers(0, 3)) == 0:
        whole += _LAST
    match draw(st.integers(0, 9)):
        case 0:
            size = max(1, len(whole) // draw(st.integers(2, 6)))
            return Raw(tuple(whole[at : at + size] for at in range(0, len(whole), size)), BETA, pause_s=0.02)
        case 1:
            return Raw((whole[: draw(st.integers(0, len(whole)))],), BETA)
    return Raw((whole,), BETA)


_EVENT_FIELDS: Mapping[bytes, tuple[bytes, ...]] = {
    **_RESPONSES,
    b'"type"': (b'"response.create"', b'"response.steer"', b'"response.cancel"', b'"error"', b'"session.update"'),
    b'"stream_id"': (b'"a"', b'"b"', b'"%s"' % (b"c" * 257), b'"\xc3\xa9"', b'"a b"', b"null"),
    b'"previous_response_id"': (b'"resp_1"', b"null", b'"resp_00000000000070008000000000000000"'),
    b'"generate"': (b"false", b"true"),
    b'"background"': (b"true", b"false"),
}


@st.composite
def events(draw: st.DrawFn, key: str) -> bytes:
    """A client event, almost right."""
    base = [(b'"type"', b'"response.create"'), *responses_base(key)]
    match draw(st.integers(0, 9)):
        case 0:
            return draw(FRAGMENTS)
        case 1:
            return draw(damaged(encoded(base)))
    return encoded(draw(members(base, _EVENT_FIELDS, b'"input"')))


@st.composite
def sockets(draw: st.DrawFn) -> Socket:
    """Text frames that hold anything: all are answered, and the connection stays."""
    key = draw(KEY)
    texts = draw(st.lists(events(key), min_size=1, max_size=6))
    pieces = tuple(frame(TEXT, text) for text in texts if _is_utf8(text))
    return Socket(pieces, key, alive=True)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@st.composite
def _frame(draw: st.DrawFn) -> bytes:
    """A frame of any kind, rarely a legal one."""
    payload = draw(
        st.sampled_from([b"", b"{}", b"hello", b"\xff\xfe", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"\x00\x00",
        b"\x13\x88\xff", b"x" * 126])
        | st.binary(max_size=20)
    )  # fmt: skip
    opcode = draw(st.sampled_from([_CONT, TEXT, TEXT, BINARY, 0x3, 0x7, CLOSE, PING, PONG, 0xB, 0xF]))
    length = draw(st.sampled_from([None, None, None, 0, 5, 126, 70_000, MIB, MIB + 1, 1 << 32, (1 << 63) + 1]))
    reserved = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 7]))
    return frame(
        opcode, payload, fin=draw(st.booleans()), reserved=reserved, mask=draw(st.integers(0, 5)) > 0, length=length
    )


_FRAGMENTED = (
    frame(TEXT, b'{"type":', fin=False), frame(PING, b"now"), frame(_CONT, b'"response.steer"', fin=False),
    frame(_CONT, b"}")
)  # fmt: skip


@st.composite
def frames(draw: st.DrawFn) -> Socket:
    """Frames that RFC 6455 forbids, bytes that are no frames, connections that end in the middle."""
    good = frame(TEXT, encoded([(b'"type"', b'"response.create"'), *responses_base(BETA)]))
    one = st.one_of(_frame(), _frame(), st.just(good), st.sampled_from(_FRAGMENTED), st.binary(max_size=40))
    pieces = draw(st.lists(one, min_size=1, max_size=6))
    return Socket(tuple(pieces), BETA, abrupt=draw(st.booleans()))


_HANDSHAKES = st.sampled_from(
    [
        "/v1/responses", "/v1/responses?response_id=resp_1", "/v1/responses?response_id=",
        "/v1/responses?starting_after=1", "/v1/responses?response_id=resp_1&starting_after=-1",
        "/v1/responses?response_id=%00&starting_after=x",
        "/v1/responses?response_id=resp_ffffffffffffffffffffffffffffffff&starting_after=1", "/v1/realtime",
        "/v1/chat/completions", "/", "/v1/responses/", "//", "/v1/responses?api_key=" + BETA,
        "/v1/responses?" + "a" * 9000, "/v1/responses?%zz=%ff", "/v1/responses/input_tokens", "/openapi.json",
    ]
)  # fmt: skip
_HANDSHAKE_HEADERS = [
    ("origin", "https://evil.example"), ("origin", "null"), ("origin", "http://[::1"),
    ("origin", "http://localhost:3000"), ("sec-websocket-protocol", "realtime, openai-insecure-api-key." + BETA),
    ("sec-websocket-protocol", "realtime"), ("sec-websocket-protocol", ",,"), ("sec-websocket-protocol", "\xff"),
    ("sec-websocket-protocol", "openai-insecure-api-key."),
    ("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-unknown"), ("sec-websocket-extensions",
    "permessage-deflate"), ("sec-websocket-extensions", "x; =;"), ("sec-websocket-version", "8"),
    ("sec-websocket-key", "short"), ("x-long", "y" * 9000), ("content-length", "5"), ("transfer-encoding", "chunked"),
    ("cookie", "\x80"), ("host", "evil"), ("upgrade", "h2c"), *((f"x-{n}", "y") for n in range(2)),
]  # fmt: skip
_MANY_HEADERS = tuple((f"x-{n}", "y") for n in range(150))


@st.composite
def handshakes(draw: st.DrawFn, planted: tuple[str, ...] = ()) -> Socket:
    """WebSockets that should not come about, or that resume what is not theirs."""
    target = draw(_HANDSHAKES)
    if draw(st.booleans()) and planted:
        target = f"/v1/responses?response_id={draw(st.sampled_from(planted))}&starting_after=0"
    headers = tuple(draw(st.lists(st.sampled_from(_HANDSHAKE_HEADERS), max_size=3)))
    if draw(st.integers(0, 15)) == 0:
        headers += _MANY_HEADERS
    key = draw(st.sampled_from([BETA, BETA, "", "sk-unknown", "sk-\xff"]))
    return Socket((), key, target, headers)
