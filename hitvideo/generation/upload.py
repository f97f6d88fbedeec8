"""Uploads a folder that `bundle.write_bundle` wrote to a model hub; only when asked to, with the user's own token."""

from __future__ import annotations

from pathlib import Path

from hitvideo.errors import ConfigError, short

_MASK = "***"


def check_upload(repository: str) -> None:
    """Raise ConfigError if nothing can be uploaded to `OWNER/NAME`: no client, no token, no such name. Nothing is sent."""
    _token(repository)


def upload(folder: Path, repository: str) -> str:
    """Upload all files of a folder in one commit, and return its address. A repository that is missing is made, private.

    Raises ConfigError if the hub refuses or does not answer; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    token = _token(repository)
    api = HfApi(token=token, library_name="hitvideo")
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"hitvideo export of {folder.name}")
    except Exception as error:  # the client's, the network's or the hub's: each ends the upload alone
        why = short(" ".join(str(error).replace(token, _MASK).split()), 400)
        raise ConfigError(f"--upload {repository}: {why}; {folder} is complete: hf upload {repository} {folder}") from None
    return str(done.commit_url)


def _token(repository: str) -> str:
    try:
        from huggingface_hub import get_token
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise ConfigError("--upload needs huggingface_hub: pip install 'hitvideo[upload]'") from None
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ConfigError(f"--upload {short(repository)}: {short(error, 300)}") from None
    token = get_token()
    if not token:
        raise ConfigError(f"--upload {repository}: no token; log in with: hf auth login, or export HF_TOKEN=…")
    return str(token)
