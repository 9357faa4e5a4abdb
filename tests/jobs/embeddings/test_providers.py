"""Models behind an address, against a loopback server that misbehaves: who is blamed, and how often it is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from llmjobs.contracts.embeddings import EmbedderConfig, RateLimits
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.embeddings.embedders.limits import Bucket
from llmjobs.embeddings.embedders.provider import ProviderEncoder, ProviderModel
from llmjobs.embeddings.embedders.transport import ATTEMPTS, Timeouts
from llmjobs.embeddings.model import BrokenOff, Share, TextRefused, model_of
from tests.jobs.embeddings.loopback_provider import (
    DIMENSIONS,
    Behaviour,
    Provider,
    altered,
    dripping,
    poison,
    reset,
    serving,
    silent,
    status,
    vector,
)

KEY = "sk-very-secret"
TEXTS = ["one", "two words", "three words here", "and four words here", "five"]


@dataclass
class FakeClock:
    """Time that passes only where somebody waits, and a little with each look at it."""

    time: float = 0.0
    tick: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        self.time += self.tick
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving() as provider:
        yield provider


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def config_of(provider: Provider, **values: Any) -> EmbedderConfig:
    fields = {"backend": "openai", "name": "some-model", "url": provider.url, "key_env": "SOME_KEY", "max_tokens": 512}
    return EmbedderConfig.model_validate(fields | values)


def loaded(
    provider: Provider, clock: FakeClock, *, share: Share | None = None, timeouts: Timeouts | None = None, **values: Any
) -> ProviderEncoder:
    """Return an encoder that has asked its first question; what the provider noted of that is forgotten."""
    encoder = ProviderModel(config_of(provider, **values), share, clock=clock, timeouts=timeouts).load()
    provider.bodies.clear()
    provider.headers.clear()
    return encoder


def expected(texts: list[str], dimensions: int = DIMENSIONS) -> np.ndarray:
    vectors = np.asarray([vector(text, dimensions) for text in texts])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_vectors_come_back_in_the_order_of_the_texts_at_length_one(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock, batch_size=2)
    assert encoder.encode(TEXTS) == pytest.approx(expected(TEXTS), abs=1e-6)
    assert [len(body["input"]) for body in provider.bodies] == [2, 2, 1]
    assert {body["model"] for body in provider.bodies} == {"some-model"}
    assert provider.headers[0]["authorization"] == f"Bearer {KEY}"
    assert (encoder.usage.requests, encoder.usage.tokens) == (4, 60)  # the first question included
    assert clock.slept == []


def test_a_batch_holds_at_most_so_many_tokens(provider: Provider, clock: FakeClock) -> None:
    loaded(provider, clock, batch_tokens=40).encode(["x" * 17] * 5)  # 20 tokens each, counted by bytes
    assert [len(body["input"]) for body in provider.bodies] == [2, 2, 1]


def test_indexes_in_another_order_and_base64_are_understood(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock)
    encoder._dialect._encoding = "base64"  # type: ignore[attr-defined]
    provider.script = [altered(lambda found: found["data"].reverse())]
    assert encoder.encode(TEXTS) == pytest.approx(expected(TEXTS), abs=1e-6)
    assert provider.bodies[0]["encoding_format"] == "base64"


def test_dimensions_are_passed_on(provider: Provider, clock: FakeClock) -> None:
    model = ProviderModel(config_of(provider, dimensions=16), clock=clock)
    assert model.load().encode(TEXTS).shape == (5, 16)
    assert {body["dimensions"] for body in provider.bodies} == {16}


def test_dimensions_of_an_unknown_model_are_asked_for_once(provider: Provider, clock: FakeClock) -> None:
    model = ProviderModel(config_of(provider), clock=clock)
    assert model.fingerprint
    assert provider.bodies == []
    assert (model.dimensions, model.load() and model.dimensions) == (DIMENSIONS, DIMENSIONS)
    assert len(provider.bodies) == 1


def test_dimensions_that_the_model_does_not_give_are_a_wrong_config(provider: Provider, clock: FakeClock) -> None:
    provider.script = [altered(lambda found: found["data"][0].update(embedding=[1.0] * 9))]
    with pytest.raises(BadConfig, match="gives vectors of 9, not 16"):
        ProviderModel(config_of(provider, dimensions=16), clock=clock).load()


def test_cohere_tells_questions_from_documents(provider: Provider, clock: FakeClock) -> None:
    model = ProviderModel(config_of(provider, backend="cohere", dimensions=16), clock=clock)
    for purpose in ("document", "query"):
        encoder = model.load(purpose)
        assert encoder.encode(TEXTS) == pytest.approx(expected(TEXTS, 16), abs=1e-6)
        body = provider.bodies[-1]
        assert (body["input_type"], body["truncate"], body["output_dimension"]) == (f"search_{purpose}", "NONE", 16)
    assert set(provider.paths) == {"/v1/v2/embed"}
    assert encoder.usage.tokens == 50


LATER = {
    "429 with seconds": (status(429, retry_after="7"), 7.0),
    "429 with 0 seconds": (status(429, retry_after="0"), 0.0),
    "429 with a date": (
        lambda handler, _: handler.reply(
            429, b"", retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        ),
        99.0,
    ),
    "429 with a date that is over": (status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), 0.0),
    "503 with seconds": (status(503, retry_after="3"), 3.0),
}


@pytest.mark.parametrize("kind", LATER)
def test_later_is_waited_for_and_is_no_attempt(kind: str, provider: Provider, clock: FakeClock) -> None:
    behaviour, seconds = LATER[kind]
    encoder = loaded(provider, clock)
    times = ATTEMPTS + 2
    provider.script = [behaviour] * times
    assert encoder.encode(TEXTS) == pytest.approx(expected(TEXTS), abs=1e-6)
    assert len(provider.bodies) == times + 1
    assert clock.slept == pytest.approx([seconds] * times, abs=1.5)


def test_429_without_a_time_waits_longer_each_time(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock)
    provider.script = [status(429)] * (ATTEMPTS + 2)
    encoder.encode(TEXTS)
    assert len(clock.slept) == ATTEMPTS + 2
    assert clock.slept[-1] > 4 * clock.slept[0]


def test_a_provider_that_wants_too_much_patience_ends_the_task(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock)
    provider.script = [status(429, retry_after="3600")]
    with pytest.raises(JobError, match=r"lower embedder\.limits") as error:
        encoder.encode(TEXTS)
    assert (type(error.value), clock.slept) == (JobError, [])


def test_a_quota_that_is_used_up_is_not_waited_for(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock)
    provider.script = [status(429, {"error": {"code": "insufficient_quota", "message": "pay"}}, retry_after="5")]
    with pytest.raises(JobError, match="quota is used up"):
        encoder.encode(TEXTS)
    assert len(provider.bodies) == 1


SHORT = Timeouts(connect=5.0, read=0.05)
TROUBLE: dict[str, Behaviour] = {
    "500": status(500, b"<html>oops</html>"),
    "503 without a time": status(503),
    "garbage": status(200, b"<html>login</html>"),
    "a list": status(200, b"[1, 2]"),
    "a reset": reset,
    "a timeout": silent,
    "packed garbage": status(200, b"garbage", content_encoding="gzip"),
}


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_is_tried_again(kind: str, provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock, timeouts=SHORT if kind == "a timeout" else None)
    provider.script = [TROUBLE[kind]] * (ATTEMPTS - 1)
    assert encoder.encode(TEXTS) == pytest.approx(expected(TEXTS), abs=1e-6)
    assert len(provider.bodies) == ATTEMPTS
    assert len(clock.slept) == ATTEMPTS - 1
    assert 0.5 <= clock.slept[0] <= 1.5


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_that_stays_is_the_provider_s_and_no_text_s(kind: str, provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock, timeouts=SHORT if kind == "a timeout" else None)
    provider.script = [TROUBLE[kind]] * ATTEMPTS
    with pytest.raises(JobError, match="no text is to blame") as error:
        encoder.encode(TEXTS)
    assert type(error.value) is JobError
    assert len(provider.bodies) == ATTEMPTS


def test_an_answer_that_drips_is_given_up(provider: Provider) -> None:
    clock = FakeClock()
    encoder = loaded(provider, clock, timeouts=Timeouts(whole=5.0))
    clock.tick = 10.0
    provider.script = [dripping] * ATTEMPTS
    with pytest.raises(JobError, match="took longer than 5 s"):
        encoder.encode(TEXTS)
    assert len(provider.bodies) == ATTEMPTS


WRONG: dict[str, tuple[Behaviour, str]] = {
    "too few": (altered(lambda found: found["data"].pop()), "4 vectors for 5 texts"),
    "an index twice": (altered(lambda found: found["data"][1].update(index=0)), "numbers 5 vectors otherwise"),
    "other dimensions": (
        altered(lambda found: [row.update(embedding=[1.0] * 9) for row in found["data"]]),
        "9 dimensions, where some-model had 8",
    ),
    "mixed dimensions": (altered(lambda found: found["data"][0].update(embedding=[1.0] * 9)), "different dimensions"),
    "no list": (altered(lambda found: found.pop("data")), "no list of vectors"),
    "words": (altered(lambda found: found["data"][0].update(embedding=["a"])), "neither numbers nor base64"),
    "bad base64": (altered(lambda found: found["data"][0].update(embedding="?")), "neither numbers nor base64"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_the_provider_s_fault(kind: str, provider: Provider, clock: FakeClock) -> None:
    behaviour, says = WRONG[kind]
    encoder = loaded(provider, clock)
    provider.script = [behaviour]
    with pytest.raises(JobError, match=says) as error:
        encoder.encode(TEXTS)
    assert type(error.value) is JobError
    assert len(provider.bodies) == 1


CONFIG = {401: "SOME_KEY", 403: "SOME_KEY", 404: "no model some-model", 307: "embedder.url is wrong"}


@pytest.mark.parametrize("code", CONFIG)
def test_key_model_and_address_are_the_config_s_fault(code: int, provider: Provider, clock: FakeClock) -> None:
    words = {"error": {"message": f"Incorrect API key: {KEY}", "code": f"key {KEY}"}}
    provider.script = [status(code, words, location="http://127.0.0.1:9/")]
    with pytest.raises(BadConfig, match=CONFIG[code]) as error:
        ProviderModel(config_of(provider), clock=clock).load()
    assert len(provider.bodies) == 1
    assert KEY not in str(error.value)


def test_a_field_that_the_provider_refuses_blames_no_document(provider: Provider, clock: FakeClock) -> None:
    provider.script = [status(400, {"error": {"message": "no", "type": "unsupported_parameter"}})]
    with pytest.raises(BadConfig, match=r"unsupported_parameter.*embedder\.dimensions"):
        ProviderModel(config_of(provider, dimensions=16), clock=clock).load()


@pytest.mark.parametrize("code", [400, 413, 422])
def test_one_bad_text_of_61_is_found_and_the_others_have_their_vectors(
    code: int, provider: Provider, clock: FakeClock
) -> None:
    texts = [f"text number {number}" for number in range(61)]
    texts[37] = "poisonous"
    encoder = loaded(provider, clock)
    provider.script = [poison("poisonous", code)]
    with pytest.raises(TextRefused, match="1 of 61 texts") as error:
        encoder.encode(texts)
    assert isinstance(error.value, BadData)
    assert list(error.value.reasons) == [37]
    assert "poisonous" not in str(error.value)
    good = [number for number in range(61) if number != 37]
    assert error.value.vectors[good] == pytest.approx(expected([texts[one] for one in good]), abs=1e-6)
    assert not error.value.vectors[37].any()
    assert len(provider.bodies) <= 1 + 2 * 6  # halved until it stands alone
    paid = [text for body in provider.bodies for text in body["input"] if "poisonous" not in body["input"]]
    assert len(paid) == len(set(paid)) == 60


def test_vectors_without_a_direction_and_empty_texts_are_refused(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock)
    provider.script = [altered(lambda found: found["data"][1].update(embedding=[float("nan")] * DIMENSIONS))]
    with pytest.raises(TextRefused) as error:
        encoder.encode(["longest of all", "shorter", " "])
    assert list(error.value.reasons) == [1, 2]
    assert error.value.vectors[0] == pytest.approx(expected(["longest of all"])[0], abs=1e-6)
    assert provider.bodies[0]["input"] == ["longest of all", "shorter"]


def test_what_was_paid_for_before_the_provider_broke_is_handed_back(provider: Provider, clock: FakeClock) -> None:
    encoder = loaded(provider, clock, batch_size=2)
    provider.script = [altered(lambda _: None), status(401)]
    with pytest.raises(BrokenOff, match="SOME_KEY") as error:
        encoder.encode(TEXTS)
    assert error.value.exit_code == BadConfig.exit_code
    assert error.value.done == [2, 3]  # the longest go first
    assert error.value.vectors[[2, 3]] == pytest.approx(expected(TEXTS[2:4]), abs=1e-6)


def test_cost_is_counted_and_never_exceeded(provider: Provider, clock: FakeClock) -> None:
    limits = {"max_cost": 1.0, "price_per_million_tokens": 10_000}  # 0.01 a token, 10 tokens a text: 0.1 each
    encoder = loaded(provider, clock, limits=limits, batch_size=1)
    with pytest.raises(BrokenOff, match=r"max_cost: .*1 of 1 USD") as error:
        encoder.encode([f"number {number}" for number in range(50)])
    assert error.value.exit_code == BadConfig.exit_code
    assert len(provider.bodies) == len(error.value.done) == 8  # by bytes the tenth could cost more than is left
    assert encoder.usage.cost == pytest.approx(0.9)


def test_shards_and_tries_share_the_cost(provider: Provider, clock: FakeClock) -> None:
    limits = {"max_cost": 1.0, "price_per_million_tokens": 10_000}
    with pytest.raises(BadConfig, match=r"may spend 0\.5 of 1 USD, has spent 0\.45"):
        loaded(provider, clock, share=Share(shards=2, spent=0.45), limits=limits)
    assert provider.bodies == []


def test_rates_are_shared_between_shards(provider: Provider, clock: FakeClock) -> None:
    limits = RateLimits(requests_per_minute=60, tokens_per_minute=100_000)
    encoder = loaded(provider, clock, share=Share(shards=4), limits=limits, batch_size=1)
    encoder.encode([f"number {number}" for number in range(30)])
    assert clock.time == pytest.approx((31 - 2.5) / 15 * 60)  # 15 a minute; two and a half were saved up


def test_a_request_larger_than_the_bucket_is_paid_off_by_waiting(clock: FakeClock) -> None:
    bucket = Bucket(600, clock)  # ten a second, a hundred at most
    bucket.take(400)
    assert clock.slept == []
    bucket.take(100)
    assert clock.slept == [pytest.approx(40)]


def test_the_host_is_logged_and_neither_key_nor_text(
    provider: Provider, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llmjobs")
    encoder = loaded(provider, clock)
    provider.script = [status(500), status(429, retry_after="0"), poison("my secret text")]
    with pytest.raises(TextRefused):
        encoder.encode(["my secret text"])
    host = provider.url.split("/")[2]
    assert caplog.text.count(f"texts are sent to {host}") == 1
    assert KEY not in caplog.text
    assert "secret" not in caplog.text


def test_a_key_goes_only_to_the_address_that_it_is_named_for(
    provider: Provider, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    loaded(provider, clock, key_env="").encode(TEXTS)
    assert "authorization" not in provider.headers[0]


WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "OPENAI_API_KEY is not set": {"url": "", "key_env": ""},
    "NO_SUCH is not set": {"key_env": "NO_SUCH"},
    "neither a password": {"url": "https://me:word@host/v1"},
    "must begin with http": {"url": "host/v1"},
    "embedder.max_tokens: say": {"max_tokens": None},
    "needs price_per_million_tokens": {"limits": {"max_cost": 1}},
    "embedder.tokenizer /none/there": {"tokenizer": "/none/there"},
}


@pytest.mark.parametrize("says", WRONG_FIELDS)
def test_wrong_fields_are_refused_with_a_sentence(
    says: str, provider: Provider, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadConfig, match=says):
        loaded(provider, clock, **WRONG_FIELDS[says])
    assert provider.bodies == []


def test_the_fingerprint_is_of_what_changes_a_vector(provider: Provider) -> None:
    def fingerprint(**values: Any) -> str:
        return model_of(config_of(provider, **values)).fingerprint

    same = fingerprint()
    for values in ({"url": "http://other/v1"}, {"query_prefix": "q: "}, {"batch_size": 3}, {"key_env": "OTHER"}):
        assert fingerprint(**values) == same, values
    for values in (
        {"name": "other"}, {"dimensions": 16}, {"backend": "cohere"}, {"document_prefix": "d: "}, {"max_tokens": 99},
    ):  # fmt: skip
        assert fingerprint(**values) != same, values


def test_settings_build_the_same_model_again(provider: Provider, clock: FakeClock) -> None:
    model = model_of(config_of(provider, dimensions=16))
    again = model_of(EmbedderConfig.model_validate(model.settings))
    assert again.fingerprint == model.fingerprint
    assert KEY not in str(model.settings)
