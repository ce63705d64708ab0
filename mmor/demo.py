"""The demo: a simulated take through both stages to a report, with the bundled small models or freshly trained ones."""

from __future__ import annotations

import os
import shutil
from importlib import resources
from pathlib import Path
from random import Random

from mmor.report import TakeResult, write_report
from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.files import write_json
from operating_room.progress import track
from operating_room.relations import convert, load_samples
from operating_room.scene_graph import Sample
from operating_room.synthetic.story import script_surgery
from operating_room.synthetic.writer import synthesize
from operating_room.takes import Take, find_take, split_takes
from panoptic_segmentation import predictions
from panoptic_segmentation.evaluate import evaluate as evaluate_masks
from panoptic_segmentation.ground_truth import Video, find_videos
from panoptic_segmentation.predict import load as load_segmenter
from panoptic_segmentation.predict import predict
from scene_graph_generation.checkpoints import load_model
from scene_graph_generation.evaluate import evaluate as evaluate_graphs
from scene_graph_generation.evaluate import score_constant_guess
from scene_graph_generation.infer import SceneGraphGenerator, infer
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import mel_descriptor, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts

TAKE = find_take("004_PKA")  # of the test split: no model has been trained on a take of this name, or with this seed
PICTURE_SIZE = (320, 240)  # px
