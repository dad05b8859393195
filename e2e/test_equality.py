"""The same greedy request gives the same answer, to the last bit of its probabilities, whatever goes on around it."""

import json
import threading

import pytest
from exchange import get, metric, post, wait_for

# A prompt of more than 512 tokens: shorter ones are not kept on disk.
MESSAGES = [
    {"role": "system", "content": "You know the deep sea. " * 40},
    {"role": "user", "content": "How deep is the trench, and how far is the ridge from here? " * 12},
]
CHAT = {"messages": MESSAGES, "temperature": 0, "max_tokens": 48, "logprobs": True, "top_logprobs": 5, "ignore_eos": True}
COMPLETION = {"prompt": MESSAGES[0]["content"] * 2, "temperature": 0, "max_tokens": 48, "logprobs": 5, "ignore_eos": True}


def chat(server):
    """Text, probabilities and the number of cached tokens of the whole answer."""
    reply = post(server, "/v1/chat/completions", CHAT)
    assert reply.status == 200, reply.body
    (choice,) = reply.json()["choices"]
    cached = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return (choice["message"]["content"], json.dumps(choice["logprobs"]["content"])), cached


def chat_streamed(server):
    text, logprobs = "", []
    for event in post(server, "/v1/chat/completions", {**CHAT, "stream": True}).events():
        for choice in event["choices"] if event != "[DONE]" else []:
            text += choice["delta"].get("content", "")
            logprobs += (choice["logprobs"] or {}).get("content", [])
    return text, json.dumps(logprobs)


def completion(server):
    (choice,) = post(server, "/v1/completions", COMPLETION).json()["choices"]
    return choice["text"], json.dumps(choice["logprobs"])


def completion_streamed(server):
    text, logprobs = "", {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for event in post(server, "/v1/completions", {**COMPLETION, "stream": True}).events():
        for choice in event["choices"] if event != "[DONE]" else []:
            text += choice["text"]
            for name in logprobs if choice["logprobs"] else []:
                logprobs[name] += choice["logprobs"][name]
    return text, json.dumps({name: logprobs[name] for name in sorted(logprobs)})


def ordered(answer):
    text, logprobs = answer
    return text, json.dumps(json.loads(logprobs), sort_keys=True)


@pytest.fixture(scope="module")
def expected(hadal, models):
    """The answers of a server that does nothing else and proposes no tokens."""
    from conftest import Server

    server = Server(hadal, "--model", models("v3_1"), "--mtp", "off")
    answers = chat(server), completion(server)
    assert answers[0][1] == 0, "nothing is in the cache"
    assert server.stop() == 0
    assert len(json.loads(answers[0][0][1])) == 48
    return answers[0][0], answers[1]


@pytest.mark.parametrize("mtp", ["off", "on", "auto"])
def test_again_streamed_and_with_proposals(serve, expected, mtp):
    server = serve("--mtp", mtp)
    first, cached = chat(server)
    assert (first, cached) == (expected[0], 0)
    again, cached = chat(server)
    assert again == first and cached >= 512, "the second prompt is in the cache"
    assert chat_streamed(server) == first
    assert completion(server) == expected[1]
    assert ordered(completion_streamed(server)) == ordered(expected[1])
    if mtp == "on":
        assert metric(server, "hadal_spec_proposed_tokens_total") > 0


@pytest.mark.parametrize("mtp", ["off", "on"])
def test_beside_others(serve, expected, mtp):
    """31 others of all lengths, with and without a seed, penalties and grammars, fill the batch."""
    server = serve("--mtp", mtp, "--max-batch-size", "32", "--prefill-tokens", "128")
    stop = threading.Event()

    def other(i):
        while not stop.is_set():
            body = {"prompt": f"{i} " + "deep " * (7 * i), "max_tokens": 20 + 11 * i, "temperature": i % 3, "ignore_eos": True}
            if i % 4 == 1:
                body |= {"frequency_penalty": 0.5, "logprobs": 3}
            if i % 4 == 2:
                body |= {"response_format": {"type": "regex", "regex": "[a-z ]{200}"}, "ignore_eos": False}
            reply = post(server, "/v1/completions", body)
            assert reply.status == 200, reply.body

    threads = [threading.Thread(target=other, args=(i,)) for i in range(31)]
    for thread in threads:
        thread.start()
    try:
        wait_for("the batch is full", lambda: get(server, "/stats").json()["running"] >= 28)
        steps = metric(server, "hadal_steps_total")
        answers = [chat(server)[0], chat(server)[0], chat_streamed(server)]
        assert metric(server, "hadal_steps_total") > steps + 40
        of_completion = completion(server)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answers == [expected[0]] * 3
    assert of_completion == expected[1]
    assert metric(server, "hadal_batch_size") > 2


def test_after_a_restart(serve, expected, tmp_path):
    """Prompts that outlive the program on disk give the same answers as those that were never kept."""
    arguments = ["--kv-disk", tmp_path / "kv"]
    first = serve(*arguments)
    assert chat(first) == (expected[0], 0)
    wait_for("it is written", lambda: get(first, "/stats").json()["kv_disk"]["writes_total"] >= 8)
    assert first.stop() == 0
    second = serve(*arguments, "--mtp", "on")
    answer, cached = chat(second)
    assert answer == expected[0] and cached >= 512
    assert get(second, "/stats").json()["kv_disk"]["hits_total"] >= 8
    assert chat_streamed(second) == expected[0]
    assert completion(second) == expected[1]


def test_with_little_room(serve, expected):
    """Requests that make room for others begin again and say the same."""
    server = serve("--kv-memory", "0.001", "--max-model-len", "1024")
    answers, others = [], []

    def ask():
        answers.append(chat(server)[0])

    def other(i):
        body = {"prompt": f"{i} metres", "max_tokens": 600, "temperature": 0, "ignore_eos": True}
        others.append((i % 2, post(server, "/v1/completions", {**body, "prompt": f"{i % 2} metres"}).json()["choices"][0]["text"]))

    threads = [threading.Thread(target=other, args=(i,)) for i in range(4)] + [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected[0]] * 3
    assert len(set(others)) == 2, "and so do those others"
    assert metric(server, "hadal_preemptions_total") > 0
