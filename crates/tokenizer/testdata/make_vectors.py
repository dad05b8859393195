"""What Python's tokenizers and transformers say about the tiny tokenizer; the Rust tests must say the same.

    python make_vectors.py        # writes vectors.json and chats.json beside this file

Made with tokenizers 0.23.3 and transformers 5.24.0.
"""

import json
import pathlib
import random

from tokenizers import Tokenizer
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
ALPHABETS = [
    ["a", "b", "Z", "the", "ing", "é", "ß", "Ж", "ع", "ก", "ि", "न", "ŉ", "İ"],
    ["0", "1", "2", "9", "12345", "١", "²", "½", "Ⅷ", "㊿"],
    [" ", " ", "  ", "    ", "\t", "\u00a0", "\u3000", "\u2028", "\u200b", "\x1c", "\x1f"],
    ["\n", "\r\n", "\n\n", "\r", "\v", "\x85"],
    [".", ",", "!", "'", "_", "$", "<", ">", "{", "+", "「", "。", "€", "^", "`", "\\", "]", "-"],
    ["日", "本", "語", "カ", "タ", "ひ", "・", "゛", "ー", "龥", "龦", "한", "ｱ"],
    ["\u0301", "\u200d", "👩", "🐙", "\ufe0f", "\x00", "\ue000", "\ufffd", "\U0001f1eb"],
    ["<think>", "</think>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "<|EOT|>", "｜", "▁", "<｜", "<"],
]


def texts():
    yield from [
        "", " ", "Hello, world!", " 123 4567", "a\n\n  b\t c \r\n", "don't .NET $foo _bar", "x  \n\n y",
        "日本語カタカナひらがな漢字と123", 'fn main() { println!("{:?}", x); }\n', "Hello! 毕老师！1 + 1 = 2",
        "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜>", "cafe\u0301 café", "   x", "\n   x", "a   ", "!!!\n\n\nx",
    ]
    rng = random.Random(1)
    for _ in range(300):
        yield "".join(rng.choice(rng.choice(ALPHABETS)) for _ in range(rng.randrange(1, 20)))


def vectors(tokenizer):
    for text in texts():
        encoded = tokenizer.encode(text, add_special_tokens=False)
        pieces = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        yield {
            "text": text,
            "ids": encoded.ids,
            "pieces": pieces,
            "decoded": tokenizer.decode(encoded.ids, skip_special_tokens=True),
        }


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    {"type": "function", "function": {"name": "depth", "description": "How deep?",
     "parameters": {"type": "object", "properties": {"zone": {"type": "string"}, "alpha": {"type": "number"}}}}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]

SYSTEM = {"role": "system", "content": "S"}
U1 = {"role": "user", "content": "U1"}
U2 = {"role": "user", "content": "U2"}
THOUGHT = {"role": "assistant", "content": "<think>r</think>A1</think>B"}
ONE = {"role": "assistant", "content": None, "tool_calls": [call("depth", '{"zone": "hadal"}')]}
TWO = {"role": "assistant", "content": "C", "tool_calls": [call("depth", "{}"), call("now", {"b": 1.0, "a": "é"})]}
R1 = {"role": "tool", "content": "6000"}
R2 = {"role": "tool", "content": "7000"}
ANSWER = {"role": "assistant", "content": "A"}

CHATS = [
    [U1],
    [SYSTEM, U1],
    [SYSTEM, U1, {"role": "system", "content": "T"}, ANSWER, U2],
    [U1, THOUGHT],
    [SYSTEM, U1, THOUGHT, U2],
    [U1, ONE],
    [U1, ONE, R1],
    [U1, ONE, R1, ANSWER, U2],
    [U1, TWO, R1, R2],
    [U1, TWO, R1, R2, ONE, R1, ANSWER],
    [U1, ONE, R1, U2],
    [U1, {"role": "assistant", "content": "A", "prefix": True}],
    [ANSWER, U1],
    [U1, U2],
    [{"role": "user", "content": " <｜User｜> \n<b>é</b>\t"}],
]


def chats():
    tokenizer = AutoTokenizer.from_pretrained(HERE / "tiny")
    for name in ["v3", "v3_0324", "r1", "v3_1"]:
        template = (HERE.parent / "src/chat/templates" / f"{name}.jinja").read_text()
        for messages in CHATS:
            for options in [{}, {"thinking": True}, {"tools": TOOLS}]:
                if options and name != "v3_1":
                    continue
                for prompt in [False, True]:
                    rendered = tokenizer.apply_chat_template(
                        messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **options)
                    yield {"format": name, "messages": messages, "add_generation_prompt": prompt,
                           "variables": options, "rendered": rendered}


def write(name, items):
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    (HERE / name).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    write("vectors.json", vectors(Tokenizer.from_file(str(HERE / "tiny/tokenizer.json"))))
    write("chats.json", chats())
