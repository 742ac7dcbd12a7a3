"""A model of lorapack asked with onnxruntime alone: nothing else of lorapack is imported.

    lorapack predict examples/fleet.csv --max-loras 64 --features-out features.csv
    python examples/onnx_only.py MODEL.onnx features.csv

The file says itself what goes in and what comes out.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(model_path: str, features_path: str) -> None:
    """Prints a prediction for each row of features."""
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    features = json.loads(metadata["lorapack.features"])
    outputs = json.loads(metadata["lorapack.outputs"])
    print(f"model of {metadata['lorapack.profile']}, {len(features)} features:")
    for feature in features[:3]:
        print(f"  {feature['name']} [{feature['unit']}]: {feature['meaning']}")
    with Path(features_path).open(newline="") as file:
        rows = [[float(row[f["name"]]) for f in features] for row in csv.DictReader(file)]
    predictions = session.run(None, {"features": np.array(rows, dtype=np.float32)})[0]
    for row in predictions:
        print(json.dumps(dict(zip(outputs, row.round(4).tolist(), strict=True))))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
