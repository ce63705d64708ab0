"""Everything that computes, on the pretend GPU.

Prints JSON: `wrong`, part -> what was wrong, or null; `waits`, see WAITS.

A program of its own: the device is registered for the whole process.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.config.config_keys import CAUSAL, WHOLE_VIDEO
from panoptic_segmentation.config.settings import Config, read_config
from panoptic_segmentation.inference.live import LiveSegmenter
from panoptic_segmentation.inference.panoptic import Sizes, panoptic_video
from panoptic_segmentation.inference.predict import segment_video
from panoptic_segmentation.model.matching import Draws
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import PretrainConfig, with_vocabulary
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.example import IMAGE, Example
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.survey import survey
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.loss import answer_loss
from scene_graph_generation.training.presence import TripletTeacher, new_teacher
from scene_graph_generation.training.pretrain import pretrain
from scene_graph_generation.weights.adapters import add_lora, freeze
from tests.recipes.pretend_gpu import DEVICE, PretendGpu, register, waits_counted
from tests.recipes.small_panoptic import CONFIGS as PANOPTIC
from tests.recipes.small_panoptic import STAGES, small_config, small_model, two_clips
from tests.recipes.small_scene_graph import SMALL
from tests.scene_graph_generation.model.test_two_branches import ALL as EVERYTHING
from tests.scene_graph_generation.model.test_two_branches import EGOEXOR, sample
from tests.scene_graph_generation.tiny_languages import CONFIGS
from tests.scene_graph_generation.tiny_training import write_samples

ENCODER_ONLY = "small_encoder_only"
_SMALL_CLIPS = (
    *("INPUT.SAMPLING_FRAME_NUM", "3", "INPUT.MIN_SIZE_TEST", "48", "TEST.CANVAS", "[64,48]"),
    *("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "48"),
)
WAITS: dict[str, dict[str, int]] = {}  # training -> how often a step waits for a GPU, and where


class DeviceDraws(Draws):
    """Points of a generator of the CPU, on the device: there is no generator of a pretended one."""

    def points(self, masks: int, count: int) -> Tensor:
        return super().points(masks, count).to(DEVICE, non_blocking=True)


def config_of(stage: str) -> Config:
    """The experiment of a segmenter."""
    if stage == ENCODER_ONLY:
        return read_config(PANOPTIC / f"{stage}.yaml", _SMALL_CLIPS)
    return small_config("HybridOR", stage)


def segmenter_training(stage: str, guided: bool) -> None:
    """A step of a video model, its gradients included."""
    config = config_of(stage)
    model = small_model(config).to(DEVICE)
    frames, clips = two_clips(config)
    moved = [clip.to(DEVICE) for clip in clips]
    draws = [DeviceDraws(torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    pictures = frames.to(DEVICE)
    with waits_counted() as waits:
        losses = model(pictures, moved, draws, 0 if guided else config.solver.steps // 2)
        cost = torch.stack(list(losses.values())).sum()
        cost.backward()
    assert torch.isfinite(cost)
    WAITS[f"{stage}{'' if guided else ' unguided'}"] = dict(sorted(waits.items()))


@torch.no_grad()
def segmenter_prediction(stage: str, task: str) -> None:
    """A video through the model and its post-processing, to what is written to files."""
    config = config_of(stage)
    model = small_model(config).model.eval().to(DEVICE)
    frames, _ = two_clips(config)
    windows = (window.to(DEVICE) for window in frames[0].split(2))
    for video in segment_video(model, replace(config.test, task=task, score_threshold=0.0), windows, 24):
        for ids in video.ids:
            ids.numpy()


@torch.no_grad()
def live_segmentation(stage: str) -> None:
    """Two seconds of two cameras; what is kept of the first is on the device."""
    config, cameras = config_of(stage), mmor().collections[0]
    model = small_model(config).model.eval().to(DEVICE)
    settings = replace(config.test, score_threshold=0.0, running_mean=True)
    segmenter = LiveSegmenter(model, settings, cameras, mmor().labels)
    names = [camera.name for camera in cameras.labelled_cameras[:2]]
    for shade in (50, 200):
        # Without the inference mode of `step`, in which a backend in Python has no views.
        seen = segmenter._step({name: np.full((48, 64, 3), shade, np.uint8) for name in names})
        assert list(seen) == names


@torch.no_grad()
def segmenter_waits(stage: str) -> None:
    """How often a GPU is waited for: twice a window (who continues whom), three times a frame (its label map)."""
    config = small_config("HybridOR", stage)
    model = small_model(config).model.eval().to(DEVICE)
    frames, _ = two_clips(config)
    windows = [window.to(DEVICE) for window in torch.cat([frames[0]] * 4)[:8].split(4)]
    with waits_counted() as waits:
        found = list(segment_video(model, replace(config.test, task=CAUSAL, score_threshold=0.0), windows, 24))
    assert len(found) == 8
    assert waits.total() <= 2 * len(windows) + 3 * len(found), waits


@torch.no_grad()
def waiting_in_main_memory() -> None:
    """Frames that waited there and others that stayed on the device give the same picture."""
    draw = torch.Generator().manual_seed(0)
    masks = [3 * torch.randn(6, 4, 6, generator=draw) for _ in range(3)]
    probabilities, sizes = (4 * torch.randn(6, 9, generator=draw)).softmax(-1), Sizes((16, 24), (15, 24), (15, 24))
    plain = panoptic_video(probabilities, masks, sizes, 5, 0.2, 0.2)
    mixed = [masks[0].to(DEVICE), masks[1], masks[2].to(DEVICE)]
    found = panoptic_video(probabilities.to(DEVICE), mixed, sizes, 5, 0.2, 0.2)
    assert plain.segments
    assert found.segments == plain.segments
    assert found.ids.equal(plain.ids)


def refusals() -> None:
    """What a GPU stops at, so that the other parts prove something."""
    layer = torch.nn.Linear(3, 2).to(DEVICE)
    mistakes: list[Callable[[], object]] = [
        lambda: layer(torch.ones(1, 3)),
        lambda: layer(torch.ones(1, 3, device=DEVICE)) + torch.ones(1, 2),
        lambda: torch.cat([torch.ones(3), layer.bias]),
        lambda: layer.weight.detach().numpy(),
    ]
    for mistake in mistakes:
        try:
            mistake()
        except RuntimeError:
            continue
        raise AssertionError("a tensor of the CPU was taken for one of the device")
    with waits_counted() as waits:  # and what it is waited for
        layer.bias.tolist()
        assert float(layer.bias.sum()) < 10
        layer.bias[layer.bias > 0].cpu()
        torch.ones(2).to(DEVICE, non_blocking=True)
        torch.ones(2).to(DEVICE)
    assert sum(waits.values()) == 5, waits
    index = torch.tensor([1, 0])
    assert layer.weight[index].cpu().equal(layer.weight.cpu()[index])  # which a GPU takes, too


class SceneGraphs:
    """The scene-graph model with every modality, and samples with all of them."""

    def __init__(self, data: Path) -> None:
        write_samples(data)
        for path in data.glob("*/take_audio_embeddings_per_timepoint/*/*.pt"):
            torch.save(torch.ones(SMALL.model.pooler.audio_width), path)
        records, self.known, self.tokens = survey(
            [data / "samples.json"], True, True, lambda texts: train_tokens(texts, SMALL.vocabulary, mmor().language)
        )
        self.settings = with_vocabulary(SMALL.model, self.tokens.size)
        self.dataset = Dataset(data)
        read = ExampleReader(self.settings, self.tokens)
        config = replace(SMALL.train, modality_dropout=0.0)
        self.teacher = new_teacher(self.known, self.settings.language.width)
        self.samples = TrainingSamples(records, self.dataset, config, read, self.teacher.triplets)

    def model(self) -> MM2SG:
        torch.manual_seed(0)
        return MM2SG(self.settings)

    def training(self, fine_tuning: bool) -> None:
        model = self.model()
        if fine_tuning:
            add_lora(model, rank=4, alpha=8)
            freeze(model, 1)
            model.language.activation_checkpointing_enable({"use_reentrant": False})
        else:
            model.teacher = deepcopy(self.teacher)
        model = model.train().to(DEVICE)
        examples = [self.samples[0, i].to(DEVICE) for i in range(3)]
        assert any(example.cloud is not None for example in examples)
        weights = torch.ones(self.settings.language.vocabulary).to(DEVICE)
        with waits_counted() as waits:
            output = model(examples)
            loss = answer_loss(output.logits, output.labels, weights)
            if isinstance(model.teacher, TripletTeacher):
                loss = loss + model.teacher.loss(output.presence, [examples[i] for i in output.answered])
            loss.backward()
        WAITS["fine-tuning" if fine_tuning else "from scratch"] = dict(sorted(waits.items()))

    def pretraining(self) -> None:
        config = PretrainConfig(patch_steps=2, hand_steps=2, steps=12, batch_size=3)  # some with clouds
        pretrain(self.model().to(DEVICE), self.samples, self.known, config, 0, from_nothing=True)

    def generation(self) -> None:
        generator = SceneGraphGenerator(self.model(), self.tokens, DEVICE, 5)
        assert generator.fingerprint
        take = self.dataset.takes()[0]
        examples = [generator.read(self.dataset.take(take).timepoint(f"{i:06d}"), None) for i in range(2)]
        assert len(generator.answer([*examples, generator.read_text("what comes next?")])) == 3
        generator = SceneGraphGenerator(generator.model, self.tokens, DEVICE, 5, valid=True)
        assert len(generator.answer(examples)) == len(generator.answer(examples)) == 2
        assert generator.cost.accepted  # the second time there are drafts


def two_branches(fine_tuning: bool) -> None:
    """A step of EgoExOR's model: glasses with gaze and hands, the room with sound and cloud, and one branch alone."""
    model = MM2SG(EGOEXOR)
    if fine_tuning:
        add_lora(model, rank=4, alpha=8)
        freeze(model, 1)
        model.language.activation_checkpointing_enable({"use_reentrant": False})
    model = model.train().to(DEVICE)
    examples = [replace(one, labels=one.ids.clamp(min=0)).to(DEVICE) for one in (EVERYTHING, sample(2, 0, "gaze"))]
    output = model(examples)
    answer_loss(output.logits, output.labels, torch.ones(EGOEXOR.language.vocabulary).to(DEVICE)).backward()
    assert model.pooler is not None
    for encoder in (model.pooler.gaze_encoder, model.pooler.hand_encoder):
        assert encoder is not None
        assert all(weight.grad is not None for weight in encoder.parameters())
    generated = generate(model.eval(), examples, {1}, 3)
    assert len(generated) == 2


def other_language(family: str) -> None:
    """A step and an answer of another language model than Llama 2, fine-tuned as an experiment file would."""
    language = OtherLanguage({**CONFIGS[family], "vocab_size": SMALL.model.language.vocabulary})
    model = MM2SG(replace(SMALL.model, language=language))
    add_lora(model, rank=4, alpha=8)
    freeze(model, 1)
    model.language.activation_checkpointing_enable({"use_reentrant": False})
    model = model.train().to(DEVICE)
    views = torch.randn(2, 3, SMALL.model.vision.image_size, SMALL.model.vision.image_size)
    ids = torch.tensor([5, 6, IMAGE, 7, 8, 9])
    examples = [Example(ids, views, labels=ids.clamp(min=0)).to(DEVICE)]
    output = model(examples)
    answer_loss(output.logits, output.labels, torch.ones(language.vocabulary).to(DEVICE)).backward()
    assert len(generate(model.eval(), examples, {1}, 3)) == 1


def parts(data: Path) -> dict[str, Callable[[], None]]:
    """Everything that computes."""
    found: dict[str, Callable[[], None]] = {"refusals": refusals}
    for stage in (*STAGES, ENCODER_ONLY):
        for guided in (True,) if stage in ("CTVIS_r50", ENCODER_ONLY) else (True, False):
            found[f"training {stage}{'' if guided else ' unguided'}"] = lambda s=stage, g=guided: segmenter_training(
                s, g
            )
        for task in (WHOLE_VIDEO, "causal"):
            found[f"prediction {stage} {task}"] = lambda s=stage, t=task: segmenter_prediction(s, t)
    for stage in (*STAGES[:2], ENCODER_ONLY):
        found[f"live {stage}"] = lambda s=stage: live_segmentation(s)
    for stage in STAGES[:2]:
        found[f"waits {stage}"] = lambda s=stage: segmenter_waits(s)
    found["waiting in main memory"] = waiting_in_main_memory
    graphs = SceneGraphs(data)
    found["training from scratch"] = lambda: graphs.training(False)
    found["fine-tuning"] = lambda: graphs.training(True)
    found["pretraining"] = graphs.pretraining
    found["generation"] = graphs.generation
    found["two branches from scratch"] = lambda: two_branches(False)
    found["two branches, fine-tuning"] = lambda: two_branches(True)
    for family in CONFIGS:
        found[f"language model {family}"] = lambda f=family: other_language(f)
    return found


def main(data: str) -> None:
    """Run all parts."""
    register()
    results: dict[str, str | None] = {}
    for name, run in parts(Path(data)).items():
        try:
            with PretendGpu():
                run()
            results[name] = None
        except Exception as error:  # noqa: BLE001
            places = "".join(traceback.format_tb(error.__traceback__)[-5:])
            results[name] = f"{type(error).__name__}: {str(error)[:500]}\n{places}"
    print(json.dumps({"wrong": results, "waits": WAITS}))


if __name__ == "__main__":
    main(sys.argv[1])
