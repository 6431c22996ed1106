"""Models of `transformers` from a local folder of weights: nothing is fetched, nothing in the folder is executed."""

from pathlib import Path
from typing import Any

import torch

from holdprep.errors import HoldprepError


def load(option: str, weights: Path | None, class_name: str, kinds: tuple[str, ...], source: str, device: str) -> Any:
    """The model `class_name` of `transformers` in the folder `weights` (config.json, *.safetensors), on `device`, for inference.

    `option` is what requested it on the command line (`segmenter=sam2`), whose group has the key `weights`. `kinds` are the types
    of model that will do, a matcher's with its detector's ("superglue on superpoint"); `source` is where Hugging Face has them.
    Raises HoldprepError, naming `source`, when the folder is missing, incomplete or another model's, without transformers, or
    without the device.
    """
    key = f"{option.partition('=')[0]}.weights"
    get = f"get it with `hf download {source} --local-dir <folder>` and set {key}=<folder>"
    if device == "cuda" and not torch.cuda.is_available():
        raise HoldprepError(f"{option}: device=cuda, but torch {torch.__version__} sees no CUDA device: set device=cpu")
    if weights is None or not (weights / "config.json").is_file():
        raise HoldprepError(f"{option}: {f'no weights in {weights}' if weights else f'{key} is not set'}: {get}")
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError:
        raise HoldprepError(f"{option} needs transformers: pip install 'holdprep[models]'") from None
    kind = _kind(transformers.PretrainedConfig.get_config_dict(weights, local_files_only=True)[0])
    if kind not in kinds:
        raise HoldprepError(f"{option}: {weights} holds a model of type {kind}, not {' or '.join(kinds)}: {get}")
    transformers.utils.logging.disable_progress_bar()
    loader = getattr(transformers, class_name)
    try:
        model, report = loader.from_pretrained(weights, local_files_only=True, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise HoldprepError(f"{option}: {weights} cannot be loaded: {str(error).strip().splitlines()[0]}; {get}") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise HoldprepError(f"{option}: {weights} lacks {len(missing)} of the model's arrays ({missing[0]} ...): {get}")
    return model.to(device).eval()


def _kind(config: dict[str, Any]) -> str | None:
    detector = config.get("keypoint_detector_config")
    return f"{config.get('model_type')} on {detector.get('model_type', 'superpoint')}" if detector else config.get("model_type")
