"""Writes published rows out as training text: one Parquet file a side and target, with tokens and what is learnt.

The text is outside the dataset version's content hash: it follows from version, form and tokenizer, and
is a version of its own (``rendered/<dataset>``).
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from llmjobs.contracts.base import Strict, digest
from llmjobs.contracts.instructions import PrepareConfig, Target
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.rendered.frame_rendering import SPANS, FrameRenderer
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.rendering import IGNORED, CannotRender, ChatRenderer, ChatRow, load_tokenizer

KIND = "rendered"

SCHEMA = 1
"""Raise it when the same rows, target and tokenizer would give other files than before."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""OpenAI's Chat Markup Language as open models use it; no default system turn, no tools."""

ALPACA = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('it has a system turn') }}{% endif %}"
    "{% if message.role == 'user' and not loop.first %}{{ raise_exception('it has several questions') }}{% endif %}"
    "{% endfor %}{% set paired = messages[1] is defined and messages[1].role == 'input' %}"
    "{{ 'Below is an instruction that describes a task' }}"
    "{{ ', paired with an input that provides further context' if paired }}"
    "{{ '. Write a response that appropriately completes the request.\n\n### Instruction:\n' + messages[0].content }}"
    "{{ '\n\n### Input:\n' + messages[1].content if paired }}{{ '\n\n### Response:' }}"
    "{{ messages[-1].content + eos_token if messages[-1].role == 'assistant' }}"
)
"""Stanford Alpaca's prompts and end (tatsu-lab/stanford_alpaca, train.py), with a turn ``input`` between instruction
and answer where a row has an input."""

WRITTEN = pl.Schema(
    {
        "row_id": pl.String(),
        "text": pl.String(),
        "tokens": pl.Int64(),
        "trainable_tokens": pl.Int64(),
        "assistant_spans": SPANS,
    }
)
"""Columns of ``<target>.<side>.parquet``. Spans are ``[start, end)`` in characters of ``text``, without the mark that
ends a turn; ``trainable_tokens`` has the mark too, as in training."""

NOT_RENDERED = pl.Schema({"row_id": pl.String(), "reason": pl.String()})
"""Columns of ``<target>.<side>.not_rendered.parquet``, which is there when such rows are."""

_COLUMNS = ("row_id", "messages", "tools", "input")
_READ_ROWS = 8_000
_SHOWN_REASONS = 20
_ENCODED_ROWS = 512
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip

logger = logging.getLogger(__name__)


class TargetFigures(Strict):
    """Figures of one side of one target. ``rows`` and ``not_rendered`` are all the rows of the side.

    Attributes:
        rows: Rows with a text.
        tokens: Of all of them; ``tokens_p50`` to ``tokens_max``: of one row.
        trainable_tokens: Those with a loss in training.
        not_rendered: Rows that the form cannot express, or whose answers cannot be told from the rest.
        reasons: Why -> number of those rows, the 20 most frequent.
        tools_left_out: Rows that name tools, which the form does not show; they have a text without them.
    """

    rows: int
    tokens: int
    trainable_tokens: int
    tokens_p50: int
    tokens_p95: int
    tokens_max: int
    not_rendered: int
    reasons: dict[str, int]
    tools_left_out: int


def write_target(
    rows: Iterable[pl.DataFrame], target: Target, folder: Path, side: str, *, tokenizer: Any = None
) -> TargetFigures:
    """Write one side of a dataset in one form, a frame at a time.

    Args:
        rows: Frames with ``row_id``, ``messages`` and, where the version has them, ``tools`` and ``input``: the part of
            an Alpaca-like row's question that was its input.
        target: The form.
        folder: Where ``<target>.<side>.parquet`` goes.
        side: ``train``, ``validation`` or ``test``.
        tokenizer: That of the target's model; loaded where it is not given.

    Raises:
        BadConfig: There is no such model, or it has no chat template and the target asks for it.
    """
    tokenizer = tokenizer or load_tokenizer(resolve_model(target.model).path)
    frames, tally = FrameRenderer(_renderer(target, tokenizer)), _Tally()
    path = folder / f"{target.name}.{side}.parquet"
    with _Parquet(path) as texts, _Parquet(path.with_suffix(".not_rendered.parquet")) as others:
        texts.write(pl.DataFrame(schema=WRITTEN))
        for frame in rows:
            done = _written(_with_inputs(frame) if target.template == "alpaca" else frame, frames)
            good, bad = done.filter(pl.col("reason").is_null()), done.filter(pl.col("reason").is_not_null())
            texts.write(good.select(WRITTEN.names()))
            if bad.height:
                others.write(bad.select(NOT_RENDERED.names()))
            tally.add(good, bad, _tools_left_out(frame, frames))
    return tally.figures()


def _renderer(target: Target, tokenizer: Any) -> ChatRenderer:
    if target.template == "alpaca":
        return ChatRenderer(tokenizer, template=ALPACA, closing=tokenizer.eos_token or "", name="Alpaca's text")
    if target.template == "chatml":
        return ChatRenderer(tokenizer, template=CHATML, closing="<|im_end|>", name="ChatML")
    return ChatRenderer(tokenizer, name=f"the chat template of {target.model}")


def _with_inputs(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose question ends in their ``input`` with the input as a turn of its own."""
    if "input" not in frame.columns:
        return frame
    messages = pl.col("messages")
    question = messages.list.get(0, null_on_oob=True)
    content, end = question.struct.field("content"), pl.lit("\n\n") + pl.col("input")
    paired = (question.struct.field("role") == "user") & (pl.col("input") != "") & content.str.ends_with(end)
    asked = question.struct.with_fields(content=content.str.head(content.str.len_chars() - end.str.len_chars()))
    given = question.struct.with_fields(role=pl.lit("input"), content=pl.col("input"))
    apart = pl.concat_list(asked, given, messages.list.slice(1))
    return frame.with_columns(messages=pl.when(paired).then(apart).otherwise(messages))


def _written(frame: pl.DataFrame, frames: FrameRenderer) -> pl.DataFrame:
    """Return `WRITTEN` and ``reason`` for each row of a frame."""
    rendered = pl.concat([frame.select("row_id"), frames.rendered(frame, spans=True)], how="horizontal")
    pieces = [_masked(piece, frames.renderer) for piece in rendered.iter_slices(_ENCODED_ROWS)]
    schema = WRITTEN | NOT_RENDERED
    return pl.concat([pl.DataFrame(schema=schema), *pieces])


def _masked(rendered: pl.DataFrame, renderer: ChatRenderer) -> pl.DataFrame:
    """Add tokens and trainable tokens to rendered rows, as training would count them."""
    found: list[tuple[int | None, int | None, str | None]] = [(None, None, None)] * rendered.height
    row_ids, texts, spans = (rendered[name].to_list() for name in ("row_id", "text", "spans"))
    present = [n for n, text in enumerate(texts) if text is not None]
    encoded = renderer.encode([texts[n] for n in present]) if present else []
    for n, one in zip(present, encoded, strict=True):
        said = [(span["start"], span["end"]) for span in spans[n]]
        try:
            labels = renderer.labels(ChatRow(row_ids[n], ()), one, said)
        except CannotRender as error:
            found[n] = (None, None, error.why)
        else:
            found[n] = (len(labels), len(labels) - labels.count(IGNORED), None)
    counts = pl.DataFrame(found, schema=["tokens", "trainable_tokens", "unmasked"], orient="row")
    whole = pl.concat([rendered, counts], how="horizontal")
    reason = pl.coalesce("problem", pl.col("unmasked").cast(pl.String))
    return whole.select("row_id", "text", "tokens", "trainable_tokens", assistant_spans="spans", reason=reason)


def _tools_left_out(frame: pl.DataFrame, frames: FrameRenderer) -> int:
    if "tools" not in frame.columns or frames.renderer.knows("tools"):
        return 0
    return frame.height - frame["tools"].null_count()


class _Parquet:
    """A Parquet file that is written frame by frame; without a frame there is no file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, frame: pl.DataFrame) -> None:
        import pyarrow.parquet as pq

        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        self._writer = self._writer or pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


class _Tally:
    """Counts of one side; of every row only its number of tokens is kept."""

    def __init__(self) -> None:
        self._tokens: list[pl.Series] = [pl.Series(dtype=pl.Int32)]
        self._trainable = self._untold = 0
        self._reasons: Counter[str] = Counter()

    def add(self, good: pl.DataFrame, bad: pl.DataFrame, untold: int) -> None:
        self._tokens.append(good["tokens"].cast(pl.Int32))
        self._trainable += int(good["trainable_tokens"].sum())
        self._reasons.update(bad["reason"])
        self._untold += untold

    def figures(self) -> TargetFigures:
        tokens = pl.concat(self._tokens)

        def at(share: float) -> int:
            return int(tokens.quantile(share, "nearest") or 0)

        return TargetFigures(
            rows=len(tokens),
            tokens=int(tokens.cast(pl.Int64).sum()),
            trainable_tokens=self._trainable,
            tokens_p50=at(0.5),
            tokens_p95=at(0.95),
            tokens_max=at(1),
            not_rendered=self._reasons.total(),
            reasons=dict(self._reasons.most_common(_SHOWN_REASONS)),
            tools_left_out=self._untold,
        )


# --- versions


def rendered_version(dataset_version: str, target: Target, tokenizer_fingerprint: str, schema: int = SCHEMA) -> str:
    """Return the version of the rendered text: of ``rendered/<dataset>`` in the lake."""
    form = target.model_dump(mode="json", include={"name", "template"})
    return digest([schema, dataset_version, form, tokenizer_fingerprint])[:16]


def tokenizer_fingerprint(folder: Path) -> str:
    """Return a digest of a model folder's tokenizer and chat template; its weights do not matter to the text."""
    total = hashlib.sha256()
    for path in (folder / name for name in _TOKENIZER_FILES):
        if path.is_file():
            total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def publish_targets(
    lake: Lake, config: PrepareConfig, version: str, log: logging.Logger = logger
) -> dict[str, dict[str, Any]]:
    """Publish a dataset version in every form that the config names; what is there already is left as it is.

    Args:
        lake: Where the version is.
        config: Names dataset and targets.
        version: The dataset's version.
        log: Is told one line a target.

    Returns:
        Target -> ``version``, ``url``, and for each side the fields of `TargetFigures`.

    Raises:
        BadConfig: A target's model is not to be had, or has no chat template and the target asks for it.
        BadData: There is no such version.
    """
    return {target.name: _publish_target(lake, config.name, target, version, log) for target in config.targets}


def _publish_target(lake: Lake, name: str, target: Target, version: str, log: logging.Logger) -> dict[str, Any]:
    model = resolve_model(target.model)
    fingerprint = tokenizer_fingerprint(Path(model.path))
    rendered = rendered_version(version, target, fingerprint)
    manifest = lake.manifest(KIND, name, rendered)
    if manifest is None:
        tokenizer = load_tokenizer(model.path)
        with tempfile.TemporaryDirectory() as scratch:
            source = lake.fetch("datasets", name, version, Path(scratch) / "dataset")
            folder = Path(scratch) / "rendered"
            folder.mkdir()
            sides = {
                side: write_target(_rows_of(source / f"{side}.parquet"), target, folder, side, tokenizer=tokenizer)
                for side in SIDES
            }
            manifest = lake.publish(
                folder,
                kind=KIND,
                name=name,
                version=rendered,
                metrics={side: figures.model_dump(mode="json") for side, figures in sides.items()},
                inputs={
                    "dataset": name,
                    "dataset_version": version,
                    "target": target.model_dump(mode="json"),
                    "tokenizer_fingerprint": fingerprint,
                    "job_schema": SCHEMA,
                },
            )
    else:
        log.info("target %s: version %s is there already", target.name, rendered)
    _say(target, manifest.metrics, log)
    return {"version": rendered, "url": lake.version_url(KIND, name, rendered), **manifest.metrics}


def _rows_of(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the rows of one side, a part at a time; a side that is absent has none."""
    import pyarrow.parquet as pq

    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        wanted = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(_READ_ROWS, columns=wanted):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


def _say(target: Target, sides: dict[str, Any], log: logging.Logger) -> None:
    for side, found in sides.items():
        log.info(
            "target %s, %s: %d rows, %d tokens, %d of them trained on, %d rows not rendered%s",
            target.name, side, found["rows"], found["tokens"], found["trainable_tokens"], found["not_rendered"],
            "".join(f"; {count}: {why}" for why, count in found["reasons"].items()),
        )  # fmt: skip
