"""Image, Bundle -> Prediction: preprocessing and its exact way back, sliding window, CRF, lesions."""

from medpipe.inference.backends import Backend, load_backend, load_network
from medpipe.inference.prediction import predict, with_crf

__all__ = ["Backend", "load_backend", "load_network", "predict", "with_crf"]
