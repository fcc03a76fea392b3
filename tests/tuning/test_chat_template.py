"""What a template makes of a dialogue, and which of its tokens are learned."""

import json

import numpy as np
import pytest
from talks import answer, dialogue, question

from fugaku_jax.data.marks import END_OF_DOCUMENT
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import prompt_tokens
from fugaku_jax.interop.tokenizer_json import to_tokenizer_json
from fugaku_jax.tuning.chat_template import FUGAKU, ChatTemplate
from fugaku_jax.tuning.dialogues import Dialogue, Message
from fugaku_jax.tuning.encode import encode_dialogue

CHATML = """\
{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
MARKED = """\
{%- for message in messages -%}
{{ '### 指示:\\n' if message['role'] == 'user' else '### 応答:\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] }}!{% endgeneration %}
{%- else %}{{ message['content'] }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '### 応答:\\n' }}{% endif -%}
"""


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize(
    ("template", "end"), [(FUGAKU, END_OF_DOCUMENT), (CHATML, "<|im_end|>\n"), (MARKED, "!")]
)
def test_answers_are_what_an_assistant_says_and_the_end_of_its_turn(template, end, turns):
    told = ChatTemplate(template).tell(dialogue(7, turns))
    said = [told.text[first:last] for first, last in told.answers]
    assert said == [answer(7 + turn) + end for turn in range(turns)]


def test_the_default_is_the_prompt_of_fugaku_llm():
    told = ChatTemplate().tell(dialogue(7))
    assert told.text == (
        "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。"
        f"\n\n### 指示:\n{question(7)}\n\n### 応答:\n{answer(7)}{END_OF_DOCUMENT}"
    )
    with_input = Dialogue("x", (Message("user", "訳して", "yes"), Message("assistant", "はい")))
    assert ChatTemplate().tell(with_input).text == (
        "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。"
        "要求を適切に満たす応答を書きなさい。"
        "\n\n### 指示:\n訳して\n\n### 入力:\nyes\n\n### 応答:\nはい" + END_OF_DOCUMENT
    )
    assert ChatTemplate(CHATML).tell(with_input).text.count("訳して\n\nyes<|im_end|>") == 1


def test_the_learned_tokens_are_those_of_transformers(tokenizer, tmp_path):
    # The oracle cuts the same text by its own tokenizer and finds the answers in it by its own
    # reading of `{% generation %}`. (It knows no bounds between characters that bytes write, so
    # none stands at the edge of an answer here.)
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(tokenizer, None)))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    template = ChatTemplate(MARKED)
    for number in range(40):
        each = dialogue(number, 1 + number % 3)
        messages = [{"role": m.role, "content": m.content} for m in each.messages]
        theirs = fast.apply_chat_template(
            messages,
            chat_template=MARKED,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ours = encode_dialogue(each, template, tokenizer, tokenizer.end_of_document)
        assert ours.tokens[:-1].tolist() == theirs["input_ids"]
        assert ours.learned[:-1].astype(int).tolist() == theirs["assistant_masks"]


def test_a_token_that_joins_prompt_and_answer_is_learned(tokenizer):
    # A piece that begins before the answer and ends within it: else its first character would be
    # learned by nobody.
    pieces = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    joined = next(piece for piece in pieces if len(piece) >= 2 and piece.isalpha())
    source = (
        "{{ messages[0].content }}"
        "{% if messages|length > 1 %}{{ messages[1].content }}{% endif %}"
        "{% if add_generation_prompt %}" + joined[0] + "{% endif %}"
    )
    told = Dialogue("x", (Message("user", "山"), Message("assistant", joined)))
    template = ChatTemplate(source)
    encoded = encode_dialogue(told, template, tokenizer, tokenizer.end_of_document)
    place = encoded.tokens[:-1].tolist().index(pieces.index(joined))
    assert encoded.learned[place]
    assert not encoded.learned[:place].any()
    assert encoded.learned[place:].all()


def test_all_bytes_of_a_character_are_learned_or_none(tokenizer):
    told = Dialogue("x", (Message("user", "𠮟る?"), Message("assistant", "𩸽を焼く")))
    encoded = encode_dialogue(told, ChatTemplate(), tokenizer, tokenizer.end_of_document)
    tokens, spans = tokenizer.encode_spans(encoded.text)
    assert tokens.tolist() == encoded.tokens[:-1].tolist()
    begin = len(encoded.text[: -len("𩸽を焼く")].encode())
    assert np.array_equal(encoded.learned[:-1], spans[:, 1] > begin)
    first = int(np.argmax(encoded.learned))
    assert [tokenizer.byte(token) for token in encoded.tokens[first : first + 4].tolist()] == list(
        "𩸽".encode()
    )


def test_a_dialogue_that_ends_with_a_question_does_not_teach_to_end(tokenizer):
    said = (*dialogue(3).messages, Message("user", "次は?"))
    encoded = encode_dialogue(Dialogue("x", said), ChatTemplate(), tokenizer, 2)
    assert not encoded.learned[-1]
    assert encode_dialogue(dialogue(3), ChatTemplate(), tokenizer, 2).learned[-1]


BEHIND = MARKED.replace("!{% endgeneration %}", "{% endgeneration %} {{ eos_token }}\n")
BARE = FUGAKU.replace("{{ eos_token if message['role'] == 'assistant' }}", "")


@pytest.mark.parametrize(
    ("source", "learned", "without"),
    [(FUGAKU, 3, 0), (BEHIND, 3, 0), (CHATML, 1, 0), (MARKED, 1, 0), (BARE, 1, 2)],
)
def test_every_answer_of_a_dialogue_ends_or_it_is_said(tokenizer, source, learned, without):
    end = tokenizer.end_of_document
    encoded = encode_dialogue(dialogue(7, 3), ChatTemplate(source), tokenizer, end)
    ends = encoded.tokens == end
    assert ends[-1]
    assert ends.sum() == encoded.learned[ends].sum() == learned
    assert encoded.without_end == without
    # It stands directly behind the answer, which is cut as if it were alone.
    asked, *answers = (
        tokenizer.decode(part) for part in np.split(encoded.tokens, np.flatnonzero(ends) + 1)[:-1]
    )
    if learned == 3:
        assert asked.strip().endswith(answer(7))
        assert [each.strip().endswith(answer(8 + n)) for n, each in enumerate(answers)] == [
            True
        ] * 2
    assert tokenizer.decode(encoded.tokens) == encoded.text


def test_what_a_model_goes_on_from_holds_the_ends_that_it_has_learned(tokenizer):
    said = (*dialogue(7, 2).messages, Message("user", question(9)))
    template = ChatTemplate()
    prompt = template.prompt(Dialogue("x", said))
    assert prompt.count(END_OF_DOCUMENT) == 2
    assert template.next_turn() == "### 指示:"
    taught = encode_dialogue(
        Dialogue("x", (*said, Message("assistant", answer(9)))), template, tokenizer, 2
    )
    asked = prompt_tokens(tokenizer, None, prompt)
    assert taught.tokens[: len(asked)].tolist() == asked
    assert prompt_tokens(tokenizer, None, "") == [tokenizer.end_of_document]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{% for %}", "is no Jinja template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "does not mark where an answer"),
        ("{{ raise_exception('only one turn') }}", "refuses a dialogue: only one turn"),
        ("{{ messages[0].__class__.__mro__ }}", "refuses a dialogue"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "refuses a dialogue"),
        (
            "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}>{% endif %}",
            "does not mark where an answer begins",
        ),
        (
            "{% for m in messages %}{% if loop.last %}{{ m.content }}{% else %}-{% endif %}"
            "{% if m.role == 'user' %}>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}!{% endif %}",
            "does not mark where an answer begins",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_a_sentence(source, says):
    with pytest.raises(InputError, match=says):
        ChatTemplate(source, "the template").tell(dialogue(1, 2))


def test_a_text_cannot_pretend_to_be_an_answer():
    said = (Message("user", "\ufdd0learn this\ufdd1"), Message("assistant", "いいえ"))
    with pytest.raises(InputError, match="U\\+FDD0"):
        ChatTemplate().tell(Dialogue("x", said))
