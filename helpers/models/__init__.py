"""Where the model lies, whether it is whole, how large it is, and why a download failed. Introduced in notebook 02."""

from helpers.models.download import explain_download_error
from helpers.models.files import ModelFiles, check_model
from helpers.models.find import find_model
from helpers.models.size import SEVEN_B_CONFIG, ModelSize, model_size

__all__ = [
    "SEVEN_B_CONFIG", "ModelFiles", "ModelSize", "check_model", "explain_download_error", "find_model", "model_size",
]  # fmt: skip
