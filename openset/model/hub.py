"""Models on the Hugging Face hub, by the names and options of its `ModelHubMixin`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openset.model.card import CARD
from openset.model.saved import DESCRIPTION, TENSORS


def pushed(save: Callable[[Path], Any], repo_id: str, **options: Any) -> str:
    """Uploads what `save` writes into a folder, and returns the address of the commit.

    Args:
        save: Writes the model into a new folder.
        repo_id: The model's name on the hub, such as `you/digits`; it is made if it is new.
        options: As for `OpenSet.push_to_hub`.
    """
    from huggingface_hub import HfApi  # Slow to import.

    api = HfApi(token=options.get("token"))
    name = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "model")
        save(place)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=place,
            commit_message=options.get("commit_message"),
            revision=options.get("branch"),
            create_pr=options.get("create_pr"),
        )
    return str(commit)


def pulled(place: str | os.PathLike[str], **options: Any) -> Path:
    """The folder of a model: one of this machine, or that of the hub once it is downloaded.

    Args:
        place: A folder, or a model's name on the hub.
        options: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`.

    Raises:
        ValueError: If it is neither.
    """
    if Path(place).exists():
        return Path(place)
    from huggingface_hub import snapshot_download  # Slow to import.
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = [TENSORS, DESCRIPTION, CARD]
        return Path(snapshot_download(str(place), allow_patterns=wanted, **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{place} is no folder here, and the hub gives no such model: "
            f"{str(error).splitlines()[0]}"
        ) from error
