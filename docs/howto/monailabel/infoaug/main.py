"""An app for MONAI Label with one model, ``landmarks``: it finds the landmarks of an annotated template in an image.

Settings, each given as ``--conf NAME VALUE``: ``checkpoint`` of a training with a landmark bundle, ``template`` image,
``landmarks`` of it, and where needed ``pixdim`` (millimetres a pixel of PNG and JPEG) and ``device``.
"""

import json
import logging
import tempfile
from pathlib import Path

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monai_infoaug.commands.template_matcher import TemplateMatcher
from monai_infoaug.data import LandmarkTable, image_name, write_landmarks

NEEDED = ("checkpoint", "template", "landmarks")


class LandmarkTask(InferTask):
    """Landmarks of the template in one image."""

    def __init__(self, conf):
        lacking = [name for name in NEEDED if not conf.get(name)]
        if lacking:
            raise ValueError(f"Start the server with {' '.join(f'--conf {name} FILE' for name in lacking)}.")
        settings = {"pixdim": json.loads(conf["pixdim"])} if conf.get("pixdim") else None
        self.matcher = TemplateMatcher(
            conf["checkpoint"],
            conf["template"],
            conf["landmarks"],
            settings=settings,
            device=conf.get("device", "cpu"),
        )
        dimension = self.matcher.templates[0].points.shape[-1]
        about = f"Landmarks of {Path(conf['template']).name}"
        super().__init__(InferType.DETECTION, self.matcher.labels, dimension, about)

    def is_valid(self):
        """The checkpoint has been read."""
        return True

    def __call__(self, request):
        """Find the landmarks in ``request["image"]``: markups for 3D Slicer, and the same as plain values."""
        path = request["image"]
        match = self.matcher(self.matcher.read(path), path)
        name, labels = image_name(Path(path)), self.matcher.labels
        table = LandmarkTable(
            labels, {name: match.world}, {name: match.scores}, match.space, selected={name: ~match.low}
        )
        file = Path(tempfile.mkdtemp(), f"{name}.mrk.json")
        write_landmarks(file, table)
        found = zip(labels, match.world.tolist(), match.scores.tolist(), match.low.tolist(), strict=True)
        return str(file), {
            "space": match.space,
            "landmarks": [
                {"label": label, "position": position, "score": score, "low": low}
                for label, position, score, low in found
            ],
        }


class InfoaugApp(MONAILabelApp):
    """The app."""

    def __init__(self, app_dir, studies, conf):
        self.task = LandmarkTask(conf)
        logging.getLogger(__name__).info("Landmarks: %s", ", ".join(self.task.labels))
        super().__init__(app_dir, studies, conf, "monai_infoaug", self.task.description, labels=self.task.labels)

    def init_infers(self):
        """The one model."""
        return {"landmarks": self.task}
