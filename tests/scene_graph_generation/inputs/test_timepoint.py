"""The files of a timepoint as tensors."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pypcd4 import Encoding, PointCloud

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import MAX_POINTS
from operating_room.graphs.prompts import conversation, human_prompt
from operating_room.recordings.dataset import Dataset
from operating_room.scores.fingerprints import stamp
from scene_graph_generation.config.settings import MM2SGConfig, PoolerConfig, VisionConfig
from scene_graph_generation.inputs.evidence import Evidence, ExampleReader, _state
from scene_graph_generation.inputs.example import IGNORED, IMAGE, Example, merge
from scene_graph_generation.inputs.modalities import other_tokens, read_audio_embedding, read_cloud, read_masks
from scene_graph_generation.inputs.tokens import train_tokens
from tests.operating_room.tiny_dataset import label_picture, picture, write, write_dataset

CONFIG = MM2SGConfig(vision=VisionConfig(image_size=28), pooler=PoolerConfig(audio_width=8))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_embeddings_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    """Fault 12: the graph was empty, exit code 0."""
    vector = torch.ones(8)
    vector[3] = value
    with pytest.raises(UserError, match=r"a\.pt: holds values that are no number"):
        read_audio_embedding(save_tensor(tmp_path / "a.pt", vector), 8)


def test_tensors_of_other_kinds_are_named(tmp_path: Path) -> None:
    for value in (torch.ones(8).to_sparse(), torch.ones(8, device="meta"), torch.ones(8, dtype=torch.complex64), 3):
        with pytest.raises(UserError, match=r"a\.pt"):
            read_audio_embedding(save_tensor(tmp_path / "a.pt", value), 8)


def save_tensor(path: Path, value: object) -> Path:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return write(path, buffer.getvalue())


def test_audio_embeddings_are_flat_float_vectors(tmp_path: Path) -> None:
    path = save_tensor(tmp_path / "a.pt", torch.arange(8.0).half()[None])
    assert torch.equal(read_audio_embedding(path, 8), torch.arange(8.0))


@pytest.mark.parametrize("value", [torch.zeros(9), torch.zeros(8, dtype=torch.int64), {"a": 1}, torch.tensor([])])
def test_other_audio_vectors_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(UserError, match=r"a\.pt: expected an audio embedding of 8 numbers"):
        read_audio_embedding(save_tensor(tmp_path / "a.pt", value), 8)


@pytest.mark.parametrize("content", [b"", b"nothing", picture()])
def test_damaged_audio_vectors_are_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.pt"):
        read_audio_embedding(write(tmp_path / "a.pt", content), 8)


def test_masks_are_stacked(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.png", label_picture(0, i, size=32)) for i in (5, 29)]
    masks = read_masks(paths, MM2SGConfig())
    assert masks.shape == (2, 32, 32)
    assert masks.amax((1, 2)).tolist() == [5, 29]


@pytest.mark.parametrize("content", [label_picture(0, 5, size=31), label_picture(0, 30, size=32), b""])
def test_unusable_masks_are_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"m\.png"):
        read_masks([write(tmp_path / "m.png", content)], MM2SGConfig())


def test_four_masks_are_too_many(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", label_picture(0, 5, size=32))
    with pytest.raises(UserError, match="takes 3"):
        read_masks([path] * 4, MM2SGConfig())


def test_masks_of_another_domain(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", label_picture(0, 40, size=32))
    masks = read_masks([path], replace(MM2SGConfig(), labels=41))
    assert int(masks.max()) == 40
    with pytest.raises(UserError, match=r"m\.png: expected 32x32 labels below 30"):
        read_masks([path], MM2SGConfig())
    with pytest.raises(UserError, match="takes 0"):
        read_masks([path], replace(MM2SGConfig(), masks=0))


def test_a_whole_timepoint(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    save_tensor(
        tmp_path / "MM-OR_data" / "take_audio_embeddings_per_timepoint" / "001_PKA" / "000001.pt", torch.ones(8)
    )
    timepoint = Dataset(tmp_path).take(mmor().find_take("001_PKA")).timepoints[0]
    prompt = conversation(human_prompt(mmor().language, None, None, None, None))
    tokens = train_tokens([prompt], 1024, mmor().language)
    example = ExampleReader(CONFIG, tokens)(Evidence.of_timepoint(timepoint), prompt)
    assert example.views.shape == (7, 3, 28, 28)
    assert example.audio is not None
    assert example.masks is not None
    assert example.masks.shape == (3, 32, 32)
    assert example.cloud is not None
    assert example.cloud.shape == (2, 6)
    assert example.labels is None
    only_views = ExampleReader(MM2SGConfig(vision=CONFIG.vision, modalities=("views",)), tokens)
    bare = only_views(Evidence.of_timepoint(timepoint), prompt)
    assert bare.audio is None
    assert bare.masks is None
    assert bare.cloud is None


def save_cloud(path: Path, points: np.ndarray) -> Path:
    """Points in millimetres."""
    cloud = PointCloud.from_points(
        [*points.T, np.zeros(len(points), np.float32)], ("x", "y", "z", "rgb"), (np.float32,) * 4
    )
    buffer = io.BytesIO()
    cloud.save(buffer, Encoding.BINARY)
    return write(path, buffer.getvalue())


def test_clouds_are_metres_in_single_precision(tmp_path: Path) -> None:
    points = np.array([[1234.5, 2, 3], [1, 2, 4000.25]], np.float32)  # in bfloat16 these would lose centimetres
    read = read_cloud(save_cloud(tmp_path / "a.pcd", points))
    assert torch.equal(read[:, :3], torch.from_numpy(points) / 1000)


def test_points_without_depth_are_left_out(tmp_path: Path) -> None:
    """Fault 3: depth cameras write NaN where nothing came back; the take was lost."""
    points = np.array([[1, 2, np.nan], [10, 20, 30], [np.inf, 0, 0], [40, 50, -60]], np.float32)
    read = read_cloud(save_cloud(tmp_path / "a.pcd", points))
    assert torch.equal(read[:, :3], torch.from_numpy(points[[1, 3]]) / 1000)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (np.zeros((0, 3)), "has 0 points"),
        (np.array([[1, 2, np.nan], [1, np.inf, 3]]), "has 0 points, 2 more without depth"),
        (np.array([[0, 0, 0], [0, 0, 700_000]]), "is 700 m wide"),
        (np.zeros((MAX_POINTS + 1, 3)), f"has {MAX_POINTS + 1} points"),
    ],
)
def test_unusable_clouds_are_named(tmp_path: Path, points: np.ndarray, said: str) -> None:
    path = save_cloud(tmp_path / "c.pcd", points.astype(np.float32))
    with pytest.raises(UserError, match=rf"c\.pcd: .*{said}") as error:
        read_cloud(path)
    assert "\n" not in str(error.value)


def test_records_name_files_in_the_published_ways(tmp_path: Path) -> None:
    record = {"image": ["a.jpg", "/b.jpg"], "pc": "c.pcd", "audio": None, "segmasks": "m.png"}
    evidence = Evidence.of_record(record, tmp_path)
    assert evidence.views == (tmp_path / "a.jpg", Path("/b.jpg"))
    assert (evidence.cloud, evidence.audio, evidence.masks) == (tmp_path / "c.pcd", None, (tmp_path / "m.png",))


@pytest.mark.parametrize("record", [{"image": 3}, {"pc": {"a": 1}}, {"segmasks": [1]}, {"audio": [None]}])
def test_records_with_other_things_than_file_names_are_refused(tmp_path: Path, record: dict) -> None:
    with pytest.raises(UserError, match="must name files"):
        Evidence.of_record(record, tmp_path)


MEMORY = "Long: " + "".join(f"nurse,tool {number},holding; " for number in range(300)) + "Short: mps,tracker,touching"
PROMPT = conversation(human_prompt(mmor().language, None, None, "hello", MEMORY))
TOKENS = train_tokens([PROMPT], 1024, mmor().language)
NO_FILES = Evidence(())


def room_for(tokens: int) -> ExampleReader:
    return ExampleReader(replace(CONFIG, max_length=tokens + CONFIG.vision.tokens - 1), TOKENS)


@pytest.mark.parametrize("answer", [None, "<SG> nurse,saw,holding; </SG>"])
def test_text_that_is_too_long_loses_the_oldest_part_of_its_memory(answer: str | None) -> None:
    full = room_for(10_000)(NO_FILES, PROMPT, answer)
    assert full.dropped_memory == 0
    room = len(full.ids) // 2
    short = room_for(room)(NO_FILES, PROMPT, answer)
    text = TOKENS.decode([token for token in short.ids.tolist() if token != IMAGE])
    kept = MEMORY[short.dropped_memory :]
    assert 0 < short.dropped_memory < len(MEMORY)
    assert text == (PROMPT.replace(MEMORY, kept) + (f" {answer}" if answer else "")).replace("<image>", "")
    assert room - 8 <= len(short.ids) <= room  # no more is dropped than has to be
    if answer:
        assert short.labels is not None
        assert full.labels is not None
        assert short.labels[short.labels != IGNORED].tolist() == full.labels[full.labels != IGNORED].tolist()


@pytest.mark.parametrize("over", [-300, -299, -1, 0, 1])
def test_the_limit_is_for_the_prompt_alone(over: int) -> None:
    """As published: a prompt loses nothing up to 2048 tokens, visual ones included; its answer goes beyond them.

    Room for 300 tokens of answer was taken from the prompt, so that memories were cut that were not in the paper.
    """
    whole = room_for(10_000)(NO_FILES, PROMPT)
    room = len(whole.ids) - 1 + CONFIG.vision.tokens  # the placeholder is replaced
    read = ExampleReader(replace(CONFIG, max_length=room - over), TOKENS)
    example = read(NO_FILES, PROMPT, reserve=300)
    assert (example.dropped_memory > 0) == (over > 0)
    assert len(merged(read, example)) == min(room, len(example.ids) - 1 + CONFIG.vision.tokens) <= room - over


def test_positions_of_the_language_model_are_for_prompt_and_answer() -> None:
    text = len(room_for(10_000)(NO_FILES, PROMPT).ids) - 1 + CONFIG.vision.tokens
    for positions, cut in ((text + 300, False), (text + 299, True)):
        language = replace(CONFIG.language, positions=positions)
        read = ExampleReader(replace(CONFIG, max_length=10_000, language=language), TOKENS)
        assert (read(NO_FILES, PROMPT, reserve=300).dropped_memory > 0) == cut


def test_absent_modalities_need_no_room() -> None:
    """Only published batching can give a sample tokens that it does not have itself."""
    text = len(room_for(10_000)(NO_FILES, PROMPT).ids) - 1 + CONFIG.vision.tokens
    for batching, room in (("independent", text), ("published", text + other_tokens(MM2SGConfig()))):
        config = replace(CONFIG, batching=batching, max_length=room)
        assert ExampleReader(config, TOKENS)(NO_FILES, PROMPT).dropped_memory == 0
        tight = replace(config, max_length=room - 1)
        assert ExampleReader(tight, TOKENS)(NO_FILES, PROMPT).dropped_memory > 0


def merged(read: ExampleReader, example: Example) -> torch.Tensor:
    """The positions of an example once its visual tokens stand in the place of the image."""
    visual = torch.zeros(CONFIG.vision.tokens, 3)
    return merge([example], [visual], lambda ids: torch.zeros(len(ids), 3), read._config.max_length).attention_mask[0]


def test_text_that_is_too_long_without_memory_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs \d+ tokens without its memory, the model has room for 8"):
        room_for(8)(NO_FILES, PROMPT)
    with pytest.raises(UserError, match=r"needs \d+ tokens, the model has room for 3"):
        room_for(3)(NO_FILES, conversation(human_prompt(mmor().language, None, None, None, None)))


def test_text_only_samples_have_no_files() -> None:
    example = room_for(500)(NO_FILES, "what next ASSISTANT:")
    assert len(example.views) == 0
    assert IMAGE not in example.ids
    with pytest.raises(UserError, match="its files would not be seen"):
        room_for(500)(Evidence((Path("a.jpg"),)), "what next ASSISTANT:")


def test_what_was_read_ahead_is_what_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    folder = tmp_path / "MM-OR_data" / "take_audio_embeddings_per_timepoint" / "001_PKA"
    for second in range(1, 4):
        save_tensor(folder / f"{second:06d}.pt", torch.full((8,), float(second)))
    first, second, third = map(Evidence.of_timepoint, Dataset(tmp_path).take(mmor().find_take("001_PKA")).timepoints)
    plain, ahead = ExampleReader(CONFIG, TOKENS), ExampleReader(CONFIG, TOKENS)
    ahead.read_ahead([first, second, third])
    for evidence in (first, second):
        expected, found = plain(evidence, PROMPT), ahead(evidence, PROMPT)
        for name in ("views", "cloud", "audio", "masks"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
    assert third.audio is not None
    for future in ahead._ahead._begun.values():
        future.result()
    save_tensor(third.audio, torch.full((8,), 7.0))  # replaced meanwhile
    audio = ahead(third, PROMPT).audio
    assert audio is not None
    assert torch.equal(audio, torch.full((8,), 7.0))
    third.audio.unlink()
    ahead.read_ahead([third])
    with pytest.raises(UserError, match=r"000003\.pt"):
        ahead(third, PROMPT)


def test_more_tokens_of_answer_than_the_model_has_places_for_are_told() -> None:
    reserve = CONFIG.language.positions + 9
    with pytest.raises(UserError, match=f"room for 0; lower --max-new-tokens: {reserve} are kept for the answer"):
        room_for(500)(NO_FILES, PROMPT, reserve=reserve)


def test_a_file_that_may_not_be_looked_at_is_told_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)  # as of a closed folder, the system refuses to look
    with pytest.raises(UserError, match=r"a{300}: cannot be read"):
        stamp(path)
    assert _state(Evidence((path,))) == ("",)
