"""Masks while the cameras are running: one second of all cameras at a time (stage-1 specification, sections 5.1, 6.1).

Each camera is a video of its own, whose frames get the result that `segment_video` gives them with causal settings.
What is kept of a camera has the size of one frame, however long it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from computing.machine import autocast, is_full
from operating_room.domain.collection import Collection
from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from panoptic_segmentation.config.settings import InferenceSettings
from panoptic_segmentation.data.pictures import Picture, resize_for_test, resize_station
from panoptic_segmentation.inference.device_memory import full_memory_told
from panoptic_segmentation.inference.panoptic import CausalPanoptic, Sizes
from panoptic_segmentation.inference.predict import products_of
from panoptic_segmentation.model.encoder_only.segmenter import EncoderOutput
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.matching import align
from panoptic_segmentation.model.segmenter import SegmenterOutput
from panoptic_segmentation.model.tracker import TrackerState
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS, OnlineDVIS
from panoptic_segmentation.weights.checkpoints import VideoModel

_SMALLER = "choose a smaller INPUT.MIN_SIZE_TEST or another GPU"


@dataclass
class _Camera:
    """What one frame of a camera hands to the next."""

    panoptic: CausalPanoptic
    # Re-identification embeddings of CTVIS, the tracker's state, or the next queries of the encoder-only model.
    state: Tensor | TrackerState | None = None


class LiveSegmenter:
    """A causal segmenter with the cameras of one take."""

    def __init__(
        self,
        model: VideoModel,
        settings: InferenceSettings,
        collection: Collection,
        labels: Labels,
        tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        """Start with no frame.

        Args:
            model: in evaluation mode, on its device.
            settings: how it is to be used; whatever `task` says, nothing looks ahead.
            collection: whose cameras they are.
            labels: of the domain.
            tell: gets the line that says that a GPU is too small for all cameras at once.

        Raises:
            UserError: it is the offline model, which needs a whole video before it says anything, or the device lacks
                the format of numbers that the settings ask for.
        """
        if isinstance(model, OfflineDVIS):
            raise UserError(
                "OfflineDVIS looks at whole videos and has no masks before the end; choose a CTVIS, online or "
                "encoder-only segmenter"
            )
        self._model: CTVIS | OnlineDVIS | EncoderOnly = model
        self._products = products_of(settings, self._device)
        self._settings, self._collection, self._labels, self._tell = settings, collection, labels, tell
        self._cameras: dict[str, _Camera] = {}
        self._at_once: int | None = None  # pictures that the GPU has room for, once that is known

    @torch.inference_mode()
    def step(self, pictures: Mapping[str, Picture]) -> dict[str, UInt8[np.ndarray, "height width"]]:
        """The labels that each camera sees now, at the size of the canvas.

        Args:
            pictures: camera -> its next frame, RGB; a camera that is not in there stays as it is.

        Raises:
            UserError: the GPU has too little memory for a single picture.
        """
        with autocast(self._device, self._products):
            return self._step(pictures)

    def _step(self, pictures: Mapping[str, Picture]) -> dict[str, UInt8[np.ndarray, "height width"]]:
        sized = {camera: self._at_network_size(camera, picture) for camera, picture in pictures.items()}
        groups: dict[tuple[int, ...], list[str]] = {}
        for camera, picture in sized.items():
            groups.setdefault(picture.shape, []).append(camera)
        found: dict[str, UInt8[np.ndarray, "height width"]] = {}
        for cameras in groups.values():
            place = 0
            while place < len(cameras):
                some = cameras[place : place + (self._at_once or len(cameras))]
                seen = self._look(some, np.stack([sized[camera] for camera in some]))
                if seen is None:
                    continue  # again, with fewer at once
                with full_memory_told(self._device, "keep the masks of a picture", _SMALLER):
                    found |= {camera: self._labels_of(camera, seen, i) for i, camera in enumerate(some)}
                place += len(some)
        return {camera: found[camera] for camera in pictures}

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _at_network_size(self, camera: str, picture: Picture) -> Picture:
        settings = self._settings
        if self._collection.camera[camera].modality == "station_views":
            picture = resize_station(picture, settings.canvas)
        return resize_for_test(picture, settings.shortest, settings.longest)

    def _look(
        self, names: Sequence[str], pictures: UInt8[np.ndarray, "pictures height width 3"]
    ) -> SegmenterOutput | EncoderOutput | None:
        """What the segmenter sees; None if the GPU has too little memory for so many, and fewer are to be tried."""
        device = self._device
        try:
            frames = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float()
            if isinstance(self._model, EncoderOnly):
                return self._model.segmenter(frames, torch.stack([self._queries(name) for name in names]))
            return self._model.segmenter(frames)
        except RuntimeError as error:
            if not is_full(error):
                raise
            if len(pictures) == 1:
                raise UserError(f"{device}: has too little memory to segment one picture; {_SMALLER}") from error
        if self._at_once is None:
            self._tell(f"{device}: has too little memory for {len(pictures)} cameras at once; taking fewer")
        self._at_once = len(pictures) // 2
        return None

    def _queries(self, name: str) -> Tensor:
        """The queries that a camera's frame before left, of the encoder-only model."""
        assert isinstance(self._model, EncoderOnly)
        camera = self._cameras.get(name)
        if camera is None or not isinstance(camera.state, Tensor):
            return self._model.segmenter.first_queries(1)[0]
        return camera.state

    def _labels_of(self, name: str, seen: SegmenterOutput | EncoderOutput, i: int) -> UInt8[np.ndarray, "height width"]:
        """The label map of the i-th picture, which is the camera's next frame."""
        settings, labels = self._settings, self._labels
        sizes = Sizes(seen.padded_size, seen.image_size, seen.image_size)
        if settings.at_canvas:
            sizes = replace(sizes, output=(settings.canvas[1], settings.canvas[0]))
        camera = self._cameras.get(name)
        if camera is None or camera.panoptic.sizes != sizes:  # new, or its pictures have another size now
            thresholds = settings.score_threshold, settings.overlap_threshold
            panoptic = CausalPanoptic(sizes, len(labels.categories), *thresholds, so_far=settings.running_mean)
            camera = self._cameras[name] = _Camera(panoptic)
        logits, masks = self._next_frame(camera, seen, i)
        categories = camera.panoptic.add(logits, masks).categories(len(labels.categories))[0].numpy()
        return labels.labels[np.asarray(Image.fromarray(categories).resize(settings.canvas, Image.Resampling.NEAREST))]

    def _next_frame(
        self, camera: _Camera, seen: SegmenterOutput | EncoderOutput, i: int
    ) -> tuple[Float[Tensor, "queries classes"], Float[Tensor, "queries h w"]]:
        """Class and mask logits, query by query the same objects as in the camera's frame before."""
        if isinstance(seen, EncoderOutput):
            camera.state = seen.queries[i].clone()
            return seen.logits[i], seen.masks[i]
        if isinstance(self._model, CTVIS):
            assert not isinstance(camera.state, TrackerState)
            order = slice(None) if camera.state is None else align(camera.state, seen.reid[i])
            camera.state = seen.reid[i][order].clone()
            return seen.logits[i][order], seen.masks[i][order]
        assert isinstance(self._model, OnlineDVIS)
        assert not isinstance(camera.state, Tensor)
        one = slice(i, i + 1)
        tracked = self._model.tracker(
            seen.embeddings[one], seen.embeddings_raw[one], seen.mask_features[one], camera.state
        )
        camera.state = tracked.state
        return tracked.last.logits[0], tracked.last.masks[0]
