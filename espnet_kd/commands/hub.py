"""Published models: ``espnet-kd download-model`` and ``espnet-kd upload``.

Both use what ESPnet installs, espnet_model_zoo and huggingface_hub.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import read_config
from espnet_kd.data.unpack import extract
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import atomic_dir, fingerprint, read_json
from espnet_kd.host.outputs import task_of
from espnet_kd.teachers.published import fetch_model, link_model

MODEL_CARD = """---
tags:
- espnet
- audio
- automatic-speech-recognition
library_name: espnet
pipeline_tag: automatic-speech-recognition
---
# {name}

A model of [ESPnet](https://github.com/espnet/espnet), trained by knowledge distillation. To use it:

```python
from espnet2.bin.{module} import Speech2Text

speech2text = Speech2Text.from_pretrained("{repo}")
```

{results}
"""


def main_download(argv: list[str] | None = None) -> None:
    """Run ``download-model NAME --expdir exp``: print the directory of the model."""
    parser = command_parser("download-model")
    parser.add_argument("source", help="model of the model zoo or of Hugging Face, URL, or zip file")
    parser.add_argument("--expdir", type=Path, default=Path("exp"), help="experiments of this recipe")
    parser.add_argument("--name", help="name of its directory there (default: that of the model)")
    parser.add_argument("--model", default="valid.acc.ave.pth", help="name for its checkpoint there")
    parser.add_argument("--lm", default="valid.loss.ave.pth", help="name for that of its language model")
    args = parser.parse_args(argv)
    name = args.name or args.source.rstrip("/").removesuffix(".zip").replace("/", "_")
    target = args.expdir / name
    record = target / "run.json"
    known = read_json(record) if record.exists() else {}
    is_known = known.get("source") == args.source
    sha256 = {"sha256": fingerprint(Path(args.source))} if Path(args.source).is_file() else {}
    if is_known and sha256 and known.get("sha256", sha256["sha256"]) != sha256["sha256"]:
        raise UserError(f"{target} is of an earlier {args.source}: remove it, or rename the new one")
    lacks_lm = (target / "lm").is_dir() and not (target / "lm" / args.lm).exists()
    if is_known and (target / args.model).exists() and not lacks_lm:
        print(f"{target}: already there")
        return
    if target.exists() and not is_known:
        raise UserError(f"{target} is another experiment than {args.source}: remove it, or give a --name")
    if Path(args.source).is_file():
        files = unpack(Path(args.source), args.expdir / "downloaded" / name)
    else:
        files = fetch_model(
            args.source, f"--download_model {args.source}",
            "give a name of the model zoo or of Hugging Face, or download the zip file elsewhere and give "
            "its path",
        )  # fmt: skip
    if "asr_model_file" not in files or "asr_train_config" not in files:
        raise UserError(f"{args.source} is not a model of ASR: it has {', '.join(sorted(files))}")
    if target.exists():  # under another name of a checkpoint
        if not (target / args.model).exists():
            (target / args.model).symlink_to(Path(files["asr_model_file"]).resolve())
        if lacks_lm:
            (target / "lm" / args.lm).symlink_to(Path(files["lm_file"]).resolve())
        print(target)
        return
    with atomic_dir(target) as directory:
        link_model(directory, files["asr_train_config"], files["asr_model_file"], args.model)
        if "lm_file" in files and "lm_train_config" in files:
            (directory / "lm").mkdir()
            link_model(directory / "lm", files["lm_train_config"], files["lm_file"], args.lm)
        text = json.dumps({"role": "teacher", "source": args.source, **sha256}, indent=1) + "\n"
        (directory / "run.json").write_text(text, encoding="utf-8")
    print(target)


def unpack(packed: Path, folder: Path) -> dict[str, str]:
    """Unpack the zip file of a model into a folder.

    Returns:
        Kind of file, such as ``asr_model_file``, to its path.

    Raises:
        UserError: it is damaged, would write outside of the folder, is far too large, or is no packed model.
    """
    extract(packed, folder)
    try:
        files = packed_files(packed, folder)
    except UserError:
        shutil.rmtree(folder)
        raise
    return {kind: str(folder / path) for kind, path in files.items()}


def packed_files(packed: Path, folder: Path) -> dict[str, str]:
    """Return the kinds and relative paths of the files of an unpacked model.

    Raises:
        UserError: it is no packed model, or lacks a file.
    """
    path = folder / "meta.yaml"
    meta = read_config(path) if path.is_file() else {}
    parts = [meta.get(name) or {} for name in ("yaml_files", "files")]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{packed} names its files in another way than `kind: file`: pack the model again")
    files = {kind: name for part in parts for kind, name in part.items()}
    for name in map(str, files.values()):
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
        if not inside or not (folder / name).is_file():
            raise UserError(f"{packed} lacks {name}, which its meta.yaml names: pack the model again")
    if not {"asr_train_config", "asr_model_file"} <= files.keys():
        raise UserError(f"{packed} is not a packed model of ASR: its meta.yaml names no asr_model_file")
    return {str(kind): str(name) for kind, name in files.items()}


def main_upload(argv: list[str] | None = None) -> None:
    """Run ``upload ZIP --repo USER/NAME``: upload a packed model with a model card."""
    parser = command_parser("upload")
    parser.add_argument("packed", type=Path, help="zip file that stage 12 made")
    parser.add_argument("--repo", required=True, help="repository of Hugging Face, USER/NAME; made if new")
    parser.add_argument("--readme", type=Path, help="results for the model card, such as RESULTS.md")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    args = parser.parse_args(argv)
    if args.repo.count("/") != 1:
        raise UserError(f"--repo {args.repo}: give the name of a repository as USER/NAME")
    if not args.packed.is_file():
        raise UserError(f"{args.packed} is not a file: pack the model by stage 12")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        extract(args.packed, folder)
        (folder / "README.md").write_text(model_card(folder, args), encoding="utf-8")
        upload_folder(folder, args.repo, args.private)
    print(f"uploaded: https://huggingface.co/{args.repo}")


def model_card(folder: Path, args: Any) -> str:
    """Return the text of the model card."""
    config = read_config(folder / packed_files(args.packed, folder)["asr_train_config"])
    module = f"{task_of(config)}_inference"
    results = args.readme.read_text(encoding="utf-8") if args.readme and args.readme.is_file() else ""
    name = args.repo.partition("/")[2]
    return MODEL_CARD.format(name=name, module=module, repo=args.repo, results=results)


def upload_folder(folder: Path, repo: str, private: bool) -> None:
    """Upload a folder with the account of ``hf auth login``.

    Raises:
        UserError: nobody is logged in, the network cannot be reached, or the server refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Upload a model of espnet_kd")
    except Exception as e:  # of huggingface_hub and what it connects by
        raise UserError(
            f"--hf_repo {repo}: the upload failed: {first_line(e)}: log in by `hf auth login`, and repeat "
            "stage 12 where Hugging Face can be reached"
        ) from e
