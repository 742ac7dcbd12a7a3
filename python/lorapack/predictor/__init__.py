"""The predictor: the twin distilled into an ONNX graph that answers in microseconds.

Reading guide: `features.py` is what goes in, `targets.py` what comes out. `train.py` learns from a
sweep (`estimators.py` are its parts, `compare.py` other kinds of model), `export.py` writes the
graph, `card.py` what it is worth.
`predictor.py` asks a graph, `gpu_state.py` keeps a GPU's features up to date as adapters come and
go.
"""
