"""OpenAI's own client against the server: texts, streams, stop strings, log-probabilities, errors.

The oracle is the engine itself, asked without HTTP.
"""

import openai
import pytest

from fugaku_jax.inference.continuation import Options

PROMPT = "むかしむかし、"
GREEDY = {"model": "small", "temperature": 0}


@pytest.fixture(scope="module")
def wanted(engine, server):
    """The text of a prompt's greedy continuation, its tokens and their log-probabilities."""
    assert server.service.thread.alive
    (found,) = engine.answers([(engine.tokens(PROMPT), Options(12, temperature=0))])
    return found


def test_the_models_are_told(client):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == ("small", 512)
    assert client.models.list().object == "list"


def test_a_text_and_its_stream_are_what_the_engine_says(client, wanted):
    asked = GREEDY | {"prompt": PROMPT, "max_tokens": 12}
    whole = client.completions.create(**asked)
    (choice,) = whole.choices
    assert choice.text == wanted.text
    assert choice.finish_reason == ("length" if wanted.finish == "length" else "stop")
    assert whole.usage.completion_tokens == len(wanted.tokens)
    assert whole.usage.prompt_tokens == len(wanted.prompt)
    pieces = list(client.completions.create(**asked, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == wanted.text
    assert pieces[-1].choices[0].finish_reason == choice.finish_reason
    assert len(pieces) > 1


def test_log_probs_are_of_the_tokens_and_prompts_are_scored(client, engine, wanted):
    asked = GREEDY | {"prompt": PROMPT, "max_tokens": 12, "logprobs": 3}
    found = client.completions.create(**asked).choices[0].logprobs
    for token, value, most in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert most[token] == pytest.approx(value, abs=1e-4) == max(most.values())  # greedy
        assert len(most) <= 3
    assert "".join(found.tokens) == wanted.text
    assert found.token_logprobs == pytest.approx(wanted.log_probs, abs=1e-4)
    echoed = client.completions.create(**asked, echo=True).choices[0]
    assert echoed.text == PROMPT + wanted.text
    assert "".join(echoed.logprobs.tokens) == echoed.text
    for offset, token in zip(echoed.logprobs.text_offset, echoed.logprobs.tokens, strict=True):
        assert echoed.text[offset:].startswith(token)
    # What is told of the prompt: the probability of each token after those before it.
    before = len(echoed.logprobs.tokens) - len(wanted.tokens)
    scores = [None, *engine.score(engine.tokens(PROMPT))[0]][-before:]
    told = echoed.logprobs.token_logprobs[:before]
    assert [each for each in told if each is not None] == pytest.approx(
        [each for each in scores if each is not None], abs=1e-4
    )
    # Only scored, as benchmarks ask for it, by tokens.
    tokens = engine.tokens(PROMPT + wanted.text)
    scored = client.completions.create(
        **GREEDY, prompt=[tokens], max_tokens=0, echo=True, logprobs=1
    ).choices[0]
    assert scored.logprobs.token_logprobs[0] is None
    assert scored.logprobs.token_logprobs[1:] == pytest.approx(engine.score(tokens)[0], abs=1e-4)
    assert scored.finish_reason == "length"
    several = client.completions.create(**asked, echo=True, n=2).choices
    assert all("".join(each.logprobs.tokens) == each.text for each in several)


def test_a_text_ends_before_a_stop_string(client, wanted):
    stop = wanted.text[3:5]
    for stream in (False, True):
        asked = GREEDY | {"prompt": PROMPT, "max_tokens": 12, "stop": [stop]}
        found = client.completions.create(**asked, stream=stream)
        pieces = list(found) if stream else [found]
        assert "".join(piece.choices[0].text for piece in pieces) == wanted.text.partition(stop)[0]
        assert pieces[-1].choices[0].finish_reason == "stop"


def test_prompts_and_choices_stand_in_order_and_a_seed_says_the_same_again(client):
    asked = {"model": "small", "prompt": ["one", "two"], "n": 2, "max_tokens": 6, "seed": -3}
    first, again = (client.completions.create(**asked) for _ in range(2))
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert texts[0] != texts[1]
    assert first.usage.completion_tokens <= 24
    unseeded = client.completions.create(model="small", prompt="one", max_tokens=20, n=2)
    assert unseeded.choices[0].text != unseeded.choices[1].text


def test_a_dialogue_is_told_as_the_template_does_and_streams(client, engine):
    messages = [{"role": "system", "content": "短く。"}, {"role": "user", "content": "山は？"}]
    asked = GREEDY | {"messages": messages, "max_completion_tokens": 8, "logprobs": True}
    whole = client.chat.completions.create(**asked, top_logprobs=1)
    told = "短く。\n\n### 指示:\n山は？\n\n### 応答:\n"
    (raw,) = client.completions.create(**GREEDY, prompt=told, max_tokens=8).choices
    (choice,) = whole.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == raw.text.partition("### 指示:")[0]
    assert "".join(token.token for token in choice.logprobs.content) == raw.text
    assert all(token.logprob <= 0 for token in choice.logprobs.content)
    assert choice.logprobs.content[0].top_logprobs[0].token == choice.logprobs.content[0].token
    assert whole.usage.prompt_tokens == len(engine.tokens(told))
    usage = {"include_usage": True}
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options=usage))
    assert pieces[0].choices[0].delta.role == "assistant"
    said = [choice.delta.content or "" for piece in pieces for choice in piece.choices]
    assert "".join(said) == choice.message.content
    assert pieces[-1].usage.total_tokens == whole.usage.total_tokens
    # An answer goes back as the client has it, in parts too.
    parts = [{"type": "text", "text": "谷"}, {"type": "text", "text": "は？"}]
    again = [*messages, choice.message, {"role": "user", "content": parts}]
    client.chat.completions.create(**GREEDY, messages=again, max_tokens=1)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"model": "other"}, openai.NotFoundError, "There is no model 'other' here, but 'small'"),
        ({"temperature": -1}, openai.BadRequestError, "temperature: .* greater than or equal to 0"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"n": 100}, openai.BadRequestError, "n: "),
        ({"max_tokens": "4"}, openai.BadRequestError, "max_tokens: .*valid integer"),
        ({"prompt": []}, openai.BadRequestError, "prompt"),
        ({"prompt": [5000]}, openai.BadRequestError, "ids must be from 0 to 899"),
        ({"prompt": "1" * 600}, openai.BadRequestError, "The prompt has 60[01] tokens"),
        ({"presence_penalty": 0.5}, openai.BadRequestError, "presence_penalty"),
        ({"extra_body": {"beam_width": 3}}, openai.BadRequestError, "beam_width: Extra inputs"),
        ({"stop": ""}, openai.BadRequestError, "stop"),
        ({"suffix": "!"}, openai.BadRequestError, "suffix"),
    ],
)
def test_what_is_wrong_is_said_in_openais_shape(client, asked, error, message):
    with pytest.raises(error, match=message) as caught:
        client.completions.create(**{"model": "small", "prompt": "a", "max_tokens": 2} | asked)
    body = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"


def test_what_clients_send_of_themselves_and_changes_nothing_is_taken(client):
    neutral = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "user": "someone",
        "n": 1.0,
        "best_of": 1,
        "top_p": 1,
        "stop": None,
        "extra_body": {"top_k": 1, "repetition_penalty": 1.0},
    }
    found = client.completions.create(model="small", prompt="a", max_tokens=1, **neutral)
    assert found.usage.completion_tokens == 1


def test_more_tokens_than_there_is_room_for_end_with_length(client):
    found = client.completions.create(**GREEDY, prompt="1" * 500, max_tokens=10_000)
    assert found.choices[0].finish_reason in ("length", "stop")
    assert found.usage.total_tokens <= 512
