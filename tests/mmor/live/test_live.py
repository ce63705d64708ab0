"""Both stages live: the same graphs as take by take, whatever a second lacks, in constant memory."""

from __future__ import annotations

import json
import resource
import shutil
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmor.demo import BUNDLED, GRAPHS, SEGMENTER
from mmor.live.live import LiveSecond, live
from mmor.live.replay import Replay
from operating_room.domain.domain import Domain, mmor
from operating_room.errors import UserError
from operating_room.graphs.memory import Memory
from operating_room.graphs.prompts import conversation
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from panoptic_segmentation.data.videos import find_videos
from panoptic_segmentation.inference.live import LiveSegmenter
from panoptic_segmentation.inference.predict import load, predict
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.infer import infer
from scene_graph_generation.preprocess.embeddings import mel_encoder, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from scene_graph_generation.weights.checkpoints import load_model
from tests.mmor.live.conftest import SECONDS, TAKE
from tests.mmor.live.recorder import Recorder, house_recorder


def bundled(recorded: RecordedTake) -> tuple[LiveSegmenter, SceneGraphGenerator]:
    model, settings = load(BUNDLED / SEGMENTER / "model.safetensors", recorded.domain)
    segmenter = LiveSegmenter(model, settings, recorded.collection, recorded.domain.labels)
    return segmenter, SceneGraphGenerator(*load_model(BUNDLED / GRAPHS))


def replayed(data: Path, told: list[str]) -> list[LiveSecond]:
    torch.set_num_threads(1)
    recorded = Dataset(data).take(TAKE)
    segmenter, generator = bundled(recorded)
    source = Replay(recorded, generator.model.settings.modalities, speed=0.0, tell=told.append)
    return list(live(source, segmenter, generator, mel_encoder, told.append))


@pytest.fixture(scope="module")
def seconds(data: Path) -> list[LiveSecond]:
    """The take, live, with nothing to complain of."""
    told: list[str] = []
    found = replayed(data, told)
    assert not told
    return found


def test_live_graphs_are_those_of_the_whole_take(data: Path, seconds: list[LiveSecond], tmp_path: Path) -> None:
    """Masks, sound and words made second by second, against those that the steps make of the whole take, causally."""
    torch.set_num_threads(1)
    root = Path(shutil.copytree(data, tmp_path / "data"))
    convert(Dataset(root), root)
    videos = find_videos(Dataset(root), [TAKE])
    model_file = BUNDLED / SEGMENTER / "model.safetensors"
    predict(*load(model_file, mmor()), videos, tmp_path / "panoptic", "test", model_file)
    preprocess_audio_embeddings(Dataset(root), [TAKE], mel_encoder, causal=True).require()
    preprocess_transcripts(Dataset(root), [TAKE]).require()
    preprocess_masks(Dataset(root), [TAKE], tmp_path / "panoptic" / "inference" / "pan_pred").require()
    generator = SceneGraphGenerator(*load_model(BUNDLED / GRAPHS))
    expected = infer(generator, Dataset(root), {TAKE: None}, tmp_path / "graphs.json")

    assert {f"{TAKE.sample_name}_{second.frame_id}": list(second.graph) for second in seconds} == expected
    assert len({second.text for second in seconds}) > 1
    seen = {name for second in seconds for name in second.modalities}
    assert seen >= {"room_views", "point_cloud", "masks", "audio_embedding", "robot_screen", "tracker", "transcript"}


def test_a_second_as_one_line(seconds: list[LiveSecond]) -> None:
    second = seconds[-1]
    line = second.to_json()
    fields = json.loads(line)
    assert "\n" not in line
    assert fields["graph"] == [[s, p, o] for s, o, p in second.graph]
    assert list(fields["latency_s"]) == ["wait", "read", "masks", "evidence", "model", "total"]
    assert fields["frame_id"] == "000004"
    assert fields["missing"] == []
    assert "problem" not in fields


def test_a_take_without_sound_cameras_or_tracker(data: Path, tmp_path: Path) -> None:
    """Each is told once and costs itself."""
    root = Path(shutil.copytree(data, tmp_path / "data"))
    for name in ("take_audios", "take_tracks", "004_PKA/colorimage"):
        shutil.rmtree(root / "MM-OR_data" / name)
    told: list[str] = []
    found = replayed(root, told)
    assert len(found) == len(SECONDS)
    assert {"audio", "tracker", "room_views/1"} <= set(found[0].missing)
    assert found[0].modalities.count("masks") == 0
    assert "masks" in found[-1].modalities  # of the station cameras, which stand in for those of the room
    assert [line.partition(":")[0] for line in told] == ["000002"]
    assert "room_views/1, room_views/2" in told[0]


def test_a_damaged_picture_costs_its_view(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    path = Dataset(root).take(TAKE).timepoints[1].views["4"]
    path.write_bytes(path.read_bytes()[:2000])
    told: list[str] = []
    found = replayed(root, told)
    assert [second.missing for second in found] == [("audio",), ("room_views/4",), (), (), ()]  # of no past
    (line,) = told
    assert line.startswith(f"000001: goes on without room_views/4: {path}: ")


class Scripted(SceneGraphGenerator):
    """Says what it is told to, in its own time; notes with which memory it was asked."""

    model: Any = SimpleNamespace(settings=MM2SGConfig(modalities=("views",)))
    _tokens: Any = SimpleNamespace(conversation=conversation)

    def __init__(self, texts: list[str], recorder: Recorder, seconds_each: float, domain: Domain | None = None) -> None:
        self.texts, self.asked = texts, []
        self._recorder, self._seconds, self._domain = recorder, seconds_each, domain

    def read(self, timepoint: Timepoint, memory: str | None) -> Any:
        self.asked.append(memory)
        if self.texts[len(self.asked) - 1] == "too long":
            raise UserError("the text needs 2000 tokens")
        return len(self.asked) - 1

    def answer(self, examples: Any) -> list[str]:
        self._recorder.sleep(self._seconds)
        return [self.texts[place] for place in examples]


def of_house(
    tmp_path: Path, texts: list[str], seconds_each: float, queue: bool
) -> tuple[Recorder, list[LiveSecond], list[str | None]]:
    """The recorder, the answers to seconds that come one by one, and the memory with which each was asked for."""
    recorder = house_recorder(tmp_path)
    recorder.shoots(range(100))
    source = recorder.followed(queue)
    generator = Scripted(texts, recorder, seconds_each, source.domain)
    found = list(islice(live(source, None, generator, tell=recorder.told.append), len(texts)))
    return recorder, found, generator.asked


def test_every_text_gives_a_graph_and_a_bad_second_costs_itself(tmp_path: Path) -> None:
    texts = ["<SG> cook,pan,stirring </SG>", "too long", "%&$, <SG>", "<SG> cook,pan,holding; helper"]
    recorder, found, asked = of_house(tmp_path, texts, 0.0, queue=True)
    assert [second.graph for second in found] == [
        (Triplet("cook", "pan", "stirring"),),
        (),
        (),
        (Triplet("<SG> cook", "pan", "holding"),),
    ]
    assert [second.problem for second in found] == [None, "the text needs 2000 tokens", None, None]
    assert asked[:3] == ["Long: Short", *["Long: Short: cook,pan,stirring"] * 2]
    assert recorder.told == ["no answer: the text needs 2000 tokens"]


def test_falling_behind_is_told_once(tmp_path: Path) -> None:
    recorder, found, _ = of_house(tmp_path, ["<SG> </SG>"] * 12, 2.5, queue=False)
    assert sum(second.skipped for second in found) + len(found) - 1 == int(found[-1].frame_id)
    assert sum(second.skipped for second in found) > 10
    assert recorder.told == ["000002: answers are too slow for the take, 1 s skipped; --queue answers all"]
    assert [second.latency_s["model"] for second in found] == pytest.approx([2.5] * 12)


def test_falling_behind_with_a_queue_is_told_once(tmp_path: Path) -> None:
    recorder, found, _ = of_house(tmp_path, ["<SG> </SG>"] * 12, 2.5, queue=True)
    assert [int(second.frame_id) for second in found] == list(range(12))
    assert recorder.told == ["000003: answers are 4 s behind the take; all of them are queued"]
    assert found[-1].behind_s > found[-2].behind_s > 10


def test_a_replay_at_its_own_pace_skips_what_it_cannot_do(data: Path) -> None:
    recorder, told = Recorder(data), []

    def skipped(seconds_each: float) -> list[tuple[str, int]]:
        recorder.now = 0.0
        generator = Scripted(["<SG> </SG>"] * 5, recorder, seconds_each)
        recorded = Dataset(data).take(TAKE)
        source = Replay(recorded, ("views",), 2.0, tell=told.append, clock=recorder.clock, sleep=recorder.sleep)
        return [(second.frame_id, second.skipped) for second in live(source, None, generator, tell=told.append)]

    assert skipped(0.4) == [(f"{n:06d}", 0) for n in range(5)]
    assert not told
    assert recorder.now == pytest.approx(4 / 2 + 0.4)
    assert skipped(1.2) == [("000000", 0), ("000002", 1), ("000004", 1)]


def test_a_memory_of_a_day_is_as_small_as_one_of_an_hour() -> None:
    language, draw = mmor().language, Random(0)
    kept, whole = Memory(language.forgotten_spellings), Memory(language.forgotten_spellings)
    entities, predicates = language.entities[:8], language.predicates
    sizes = []
    for second in range(100_000):
        graph = [Triplet(draw.choice(entities), draw.choice(entities), draw.choice(predicates)) for _ in range(3)]
        kept.add(graph, second)
        kept.trim()
        if second < 300:
            whole.add(graph, second)
            assert kept.text() == whole.text()
        if second in (50_000, 99_999):
            sizes.append((len(kept.log), len(kept.text()) // 100, len(kept.state) < 20))
    assert sizes[0] == sizes[1]
    assert len(kept.log) == 5


def test_following_forgets_what_is_over(tmp_path: Path) -> None:
    recorder = house_recorder(tmp_path)
    recorder.shoots(range(60))
    source = recorder.followed(queue=True)
    for _ in islice(source, 60):
        held = [value for value in (vars(source) | vars(source.parts)).values() if isinstance(value, dict | set | list)]
        assert max(map(len, held)) <= 10


def test_a_full_disk_costs_what_would_be_written_there(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded = Dataset(data).take(TAKE)
    segmenter, generator = bundled(recorded)
    told: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    replay = Replay(recorded, generator.model.settings.modalities, 0.0, tell=told.append)
    seconds = live(replay, segmenter, generator, mel_encoder, tell=told.append)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        found = list(islice(seconds, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(found) == 3
    assert len([line for line in told if "goes on without what cannot be written there" in line]) == 1
