"""report.html: the numbers of metrics.json, text that stays text, bounded size, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lightning_audio.io import write_atomically
from lightning_audio.metrics.base import scores
from lightning_audio.metrics.classification import ClassPredictions, accuracy
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.transcripts import Transcripts, wer
from lightning_audio.reports.html import answers
from lightning_audio.reports.html import page as pages
from lightning_audio.reports.html import run as run_page
from lightning_audio.reports.html.charts import line_chart, parallel_chart, ticks
from lightning_audio.reports.html.curves import read_curves
from lightning_audio.reports.html.gaps import gaps_of, verdict
from lightning_audio.reports.html.run import write_run_report
from lightning_audio.reports.results import (
    predictions_file,
    read_metrics,
    score_text,
    write_metrics,
    write_predictions,
)

EVIL = '<script>alert("x")</script>'
LABELS = [EVIL, "dog & cat", "it's"]
STYLE = Path(pages.__file__).parent / "templates" / "style.css"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style") and data.strip():
            self.text.append(" ".join(data.split()))

    def all(self, tag: str, **having: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in having.items())]


def row(number: int, true: int, said: int, sure: float = 0.8) -> dict[str, Any]:
    shares = [(1 - sure) / 2] * 3
    shares[said] = sure
    return {
        "id": f"clip {number}",
        "reference": LABELS[true],
        "hypothesis": LABELS[said],
        "score": sure,
        "group": None,
        "fold": None,
        "scores": dict(zip(LABELS, shares, strict=True)),
    }


def make_run(folder: Path, clips: int = 30) -> Path:
    """A run of three classes: train clips are right, every fifth dev and every fourth test clip is wrong."""
    found: dict[str, Score] = {}
    for split, every in {"val": 5, "test": 4, "train": 10**9}.items():
        rows = [row(n, n % 3, (n + (n % every == every - 1)) % 3) for n in range(clips)]
        write_predictions(folder / predictions_file(split), rows)
        predictions = ClassPredictions.from_rows(rows, LABELS)
        found |= {f"{split}/{name}": score for name, score in scores([accuracy], predictions).items()}
    write_metrics(folder, found, seconds=60.0, loader_wait=0.01, data={"labels": LABELS, "hash": "abc"})
    write_atomically(folder / "config.yaml", "name: made\ntask: {monitor: val/accuracy}\nrun_folder: x\n")
    write_atomically(
        folder / "csv" / "metrics.csv",
        "step,train/loss,val/loss,val/accuracy,lr\n9,1.5,1.6,0.5,0.001\n19,1.0,1.2,0.7,0.0005\n",
    )
    return folder


def noise(split: str, name: str) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(int(name.split()[-1]))
    return (3000 * rng.normal(size=8000)).astype(np.int16), 8000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_scores_of_the_page_are_those_of_metrics_json(run: Path) -> None:
    page = Page(write_run_report(run, noise))
    metrics = read_metrics(run)
    assert len(metrics["scores"]) == 3
    for name, score in metrics["scores"].items():
        assert score_text(name, Score(**score)) in page.text
    assert "abc" in " ".join(page.text)
    assert (run / "curves.png").stat().st_size > 1000


def test_labels_are_shown_as_text(run: Path) -> None:
    page = Page(write_run_report(run, noise))
    assert len(page.all("script")) == 1  # the page's own
    assert EVIL in page.text
    assert EVIL not in page.html
    tags = [json.loads(clip["data-tags"] or "") for clip in page.all("article")]
    assert any(f"label {EVIL}" in tag for tag in tags)


def test_nothing_is_asked_of_elsewhere(run: Path) -> None:
    page = Page(write_run_report(run, noise))
    own = re.sub(r'"data:[^"]*"|^ *//.*$', "", page.html, flags=re.M)
    assert not re.search(r"https?:|//|@import|url\(", own)
    links = [value for _, a in page.elements for key, value in a.items() if key in ("src", "href", "data")]
    assert links
    assert all(str(link).startswith("data:") for link in links)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert str(policy["content"]).startswith("default-src 'none'")


def test_clips_are_those_of_dev_by_their_loss(run: Path) -> None:
    """Six of thirty are wrong, and have the largest loss; the confusion's buttons find them."""
    page = Page(write_run_report(run, noise, clips=10))
    clips = page.all("article")
    assert {clip["data-split"] for clip in clips} == {"val"}
    wrong = [f"clip {n}" for n in range(30) if n % 5 == 4]
    assert {clip["data-id"] for clip in clips[:6]} == set(wrong)
    assert len(page.all("audio")) == 10
    asked = [b["data-filter"] for b in page.all("button") if str(b.get("data-filter")).startswith("pair ")]
    shown = [
        tag for clip in clips[:6] for tag in json.loads(clip["data-tags"] or "") if tag.startswith("pair")
    ]
    assert set(asked) == set(shown)
    labelled = set(re.findall(r'aria-label="([^"]*)"', page.html))
    assert all(f"Mark {name}" in labelled for name in wrong)


def test_the_test_is_looked_at_only_where_asked_for(run: Path) -> None:
    assert "val" in {clip["data-split"] for clip in Page(write_run_report(run, noise)).all("article")}
    page = Page(write_run_report(run, noise, test=True))
    assert {clip["data-split"] for clip in page.all("article")} == {"test"}
    assert any("too good" in text for text in page.text)
    (run / predictions_file("val")).unlink()
    (run / predictions_file("train")).unlink()
    assert Page(write_run_report(run, noise)).all("article") == []


def test_audio_within_is_the_clip_without_loss(run: Path) -> None:
    page = Page(write_run_report(run, noise, clips=1))
    (audio,), (clip, *_) = page.all("audio"), page.all("article")
    kind, content = str(audio["src"]).split(",")
    assert kind == "data:audio/flac;base64"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="int16")
    assert rate == 8000
    np.testing.assert_array_equal(samples, noise("val", str(clip["data-id"]))[0])


def test_size_is_bounded(run: Path) -> None:
    """Thirty seconds of noise would be 600 kB; of what fits, Vorbis keeps more."""
    whole = len(write_run_report(run, noise, clips=30).read_bytes())
    assert whole > 500_000
    page = Page(write_run_report(run, noise, clips=30, megabytes=0.4))
    assert len(page.html.encode()) <= 400_000
    assert 5 < len(page.all("audio")) <= 30
    assert all(str(audio["src"]).startswith("data:audio/ogg") for audio in page.all("audio"))


def test_transcripts_have_alignments_and_confusions(tmp_path: Path) -> None:
    texts = [("a b c", "a x c"), ("d e", "d e"), ("0", ""), ("<i>", "<i> u")]
    rows = [
        {
            "id": f"u{n}",
            "reference": r,
            "hypothesis": h,
            "score": -1.0,
            "reference_score": -2.0 * n,
            "group": None,
        }
        for n, (r, h) in enumerate(texts)
    ]
    write_predictions(tmp_path / predictions_file("val"), rows)
    found = scores([wer], Transcripts(rows))
    write_metrics(tmp_path, {f"val/{name}": score for name, score in found.items()})
    page = Page(write_run_report(tmp_path, None))
    assert next(clip["data-id"] for clip in page.all("article")) == "u2"  # 4 for one character
    assert [len(page.all("span", **{"class": mark})) for mark in "SDI"] == [1, 1, 1]
    assert {"S b → x", "D 0 → "} <= {b.get("data-filter") for b in page.all("button")}
    assert "<i>" in page.text
    assert score_text("val/wer", found["wer"]) in page.text


def test_error_rates_go_by_speed_and_noise() -> None:
    rows = [
        {"id": f"{n}", "reference": "a b", "hypothesis": "a b" if n < 10 else "a", "seconds": 4.0 / (n + 1)}
        for n in range(20)
    ]
    found = answers.by_part(rows, answers.speeds(rows), "words a second")
    assert [row["WER"] for row in found] == ["0.0", "0.0", "50.0", "50.0"]
    assert found[0] == {"words a second": "0.5 to 2.5", "utterances": "5", "WER": "0.0"}
    assert answers.by_part(rows[1:], answers.speeds(rows), "words a second") == []  # too few to say anything
    noises = {"0": 0.01, "1": 0.1}
    rng = np.random.default_rng(0)

    def sound(split: str, name: str) -> tuple[np.ndarray, int]:
        wave = rng.normal(size=16000) * noises[name]
        wave[4000:8000] += np.sin(np.arange(4000) / 5)
        return (wave * 10000).astype(np.int16), 8000

    loud, noisy = (run_page.noise_of([{"id": n}], "val", sound)[n] for n in "01")
    assert loud == pytest.approx(20 * np.log10(0.5**0.5 / 0.01), abs=1)
    assert noisy == pytest.approx(20 * np.log10(0.5**0.5 / 0.1), abs=1)


def test_a_label_that_is_mostly_missed_puts_no_label_in_doubt() -> None:
    labels = ("heard", "missed", "absent")
    scores = [(0.9, 0.4), (0.8, 0.3), (0.05, 0.02), (0.1, 0.1), (0.02, 0.05), (0.1, 0.1)]
    rows = [
        {
            "id": f"{n}",
            "reference": "",
            "hypothesis": "",
            "scores": dict(zip(labels, (*own, 0.1), strict=True)),
        }
        | {"reference_labels": list(labels[:2]) if n < 3 else [], "hypothesis_labels": []}
        for n, own in enumerate(scores)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a label that no clip has there is nothing to take the mean of
        assert answers.doubts(rows, labels) == {"2": "heard is not there"}


def test_a_reader_sees_what_refusing_unsure_answers_gives_and_only_bins_of_some_answers() -> None:
    sure = np.array([0.9, 0.1] * 6 + [0.3])
    scores = np.stack([sure, 1 - sure], 1)
    chart = answers.refusal_chart(ClassPredictions.from_scores(scores, np.zeros(13, int), [None] * 13))
    assert "right of these" in str(chart)
    rows = [
        {"id": str(n), "reference": "a", "hypothesis": "a" if a > b else "b", "scores": {"a": a, "b": b}}
        for n, (a, b) in enumerate(scores.tolist())
    ]
    reliability = str(answers.of_labels(rows, ["a", "b"])["reliability"])
    assert reliability.count("<circle") == 1  # twelve answers of 0.9; one of 0.7 says nothing


def test_curves_end_with_training(tmp_path: Path) -> None:
    write_atomically(
        tmp_path / "csv/metrics.csv",
        "step,train/loss,val/loss\n9,2.0,\n9,,3.0\n19,1.0,\n19,,4.0\n20,,3.0\n",
    )
    assert read_curves(tmp_path)["loss"] == {"train/loss": [(9, 2), (19, 1)], "val/loss": [(9, 3), (19, 4)]}


def test_gaps_of_planted_scores() -> None:
    """Train 98, dev 80 of a target of 99: variance of 18 points, and it is named first."""
    found = {
        "train/accuracy": Score(0.98, 0.97, 0.99, 500),
        "val/accuracy": Score(0.80, 0.76, 0.84, 400),
        "test/accuracy": Score(0.79, 0.75, 0.83, 400),
    }
    gaps = gaps_of(found, "accuracy", target=0.99, drawn_from_train=True)
    assert [gap.kind for gap in gaps] == ["avoidable bias", "variance", "over-tuned dev"]
    assert [gap.value for gap in gaps] == pytest.approx([1.0, 18.0, 1.0])
    assert gaps[1].low == pytest.approx(18 - np.hypot(4, 1))
    assert [gap.clear for gap in gaps] == [False, True, False]
    assert "variance" in verdict(gaps)


def test_gaps_of_error_rates_run_the_other_way() -> None:
    found = {"train/wer": Score(0.05, 0.04, 0.06, 100), "val/wer": Score(0.25, 0.2, 0.3, 100)}
    bias, variance = gaps_of(found, "wer", target=0.02)
    assert (bias.value, variance.value) == pytest.approx((3.0, 20.0))
    assert gaps_of({"val/wer": found["val/wer"]}, "wer") == []


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: str, share: float, paper: str) -> str:
    pairs = [(int(colour[i : i + 2], 16), int(paper[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_of_all_text(theme: int) -> None:
    """WCAG AA: 4.5 for text on paper and panels, and in the darkest cell of the matrix."""
    colours = {
        name: pair[theme]
        for name, *pair in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", STYLE.read_text())
    }
    assert len(colours) == 14
    for name in ("ink", "soft", "accent", "bad", "good", *(f"s{n}" for n in range(6))):
        for ground in ("paper", "panel"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    darkest = mixed(colours["accent"], 0.45, colours["paper"])
    assert contrast(colours["ink"], darkest) >= 4.5


def test_ticks_are_round() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-7.0, 93.0) == [0.0, 20.0, 40.0, 60.0, 80.0]


def test_charts_place_points_and_escape_names() -> None:
    svg = line_chart("t", {"<b>": [(0.0, 1.0), (10.0, 3.0), (5.0, float("nan"))]}, "x", "y")
    (points,) = re.findall(r'points="([^"]*)"', svg)
    first, last = ([float(v) for v in p.split(",")] for p in points.split())
    assert first[0] < last[0]
    assert first[1] > last[1]  # y runs upwards
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg
    lines = parallel_chart("t", ["lr", "net", "score"], [[1e-3, "a", 80.0], [1e-2, "b", 90.0]], best=1)
    assert lines.count("<polyline") == 2
    assert 'class="line best"' in lines[lines.rindex("<polyline") :]


# Whatever a keyboard or a screen reader does not get to: what scrolls and takes no focus, what has no name.
UNREACHED = """[...document.querySelectorAll("*")].filter((e) => {
  const scrolls = e.scrollWidth > e.clientWidth && ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const name = e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length);
  if (scrolls && e.tabIndex < 0) return true;
  if (["BUTTON", "SELECT", "INPUT", "AUDIO"].includes(e.tagName)) return !name;
  if (e.tagName == "IMG") return !e.alt;
  return e.tagName == "svg" && !e.getAttribute("aria-label") && !e.querySelector("title");
}).map((e) => e.outerHTML.slice(0, 200))"""


def test_page_in_a_browser(run: Path, chromium: Callable[..., Any]) -> None:
    """Filters by keyboard, keeps marks over a reload, exports them, asks for nothing, fits a phone."""
    url = write_run_report(run, noise, clips=8).as_uri()
    context = chromium().new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    tab = context.new_page()
    asked: list[str] = []
    problems: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    tab.goto(url)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate(UNREACHED) == []
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator("#theme").press("Enter")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    total = tab.locator(".clip").count()
    tab.locator(".matrix button").first.press("Enter")
    assert 0 < tab.locator(".clip:visible").count() < total
    chosen = tab.locator(".clip:visible").first
    name = chosen.get_attribute("data-id")
    chosen.locator("select").select_option("noise")
    tab.reload()
    assert tab.locator(f'.clip[data-id="{name}"] select').input_value() == "noise"
    assert tab.locator("#marked").inner_text() == "Marked: noise 1"
    with tab.expect_download() as download:
        tab.locator("#export").press("Enter")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.splitlines()[1].split(",")[0] == f'"{name}"'
    assert text.splitlines()[1].endswith('"noise"')
    assert problems == []
    assert [u for u in asked if not u.startswith(("data:", "blob:"))] == [url, url]
