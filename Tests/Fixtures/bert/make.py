#!/usr/bin/env python3
"""Makes a tiny BERT with random weights, and what transformers computes from it.

    python -m pip install torch==2.13.0 transformers==5.24.0 sentence-transformers==5.7.0
    python Tests/Fixtures/bert/make.py

Writes tiny/, newer/ and tiny-reference.safetensors beside this file; README.md says what is in them.
Seeds are fixed: other weights come only from another version of PyTorch.
"""

import json
import os
import shutil
import tempfile

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "tiny")
NEWER = os.path.join(HERE, "newer")
LIMIT = 32

# The settings as most published models have them, from versions before 5.
SETTINGS = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "sentence_bert_config.json": {"max_seq_length": LIMIT, "do_lower_case": False},
    "1_Pooling/config.json": {
        "word_embedding_dimension": 48, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    },
}

# Digits other than 1 and 8 are left out, so that some words are unknown.
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz") + ["1", "8"]
SIGNS = list(".,;:!?'\"-")
PIECES = ["##" + p for p in [*"abcdefghilmnoprstuwy", "ing", "ed", "er", "est", "ly", "ness", "ance"]]
WORDS = """the of and to in that she he it was not you her his is with for be have but
very all at sister good man wife truth single fortune large rain letter house attend mean happy walk
cafe universal acknowledge walking know heart""".split()

# Of 1 to 21 tokens without [CLS] and [SEP]: capitals, an accent, pieces, unknown words, signs, Chinese, blanks that do not
# count.
TEXTS = [
    "Truth",
    "Very  happy!",
    "It was not the walking sister.",
    "At the Café:\tattendance of 8",
    "She was happiness and he, the man, was not 42.",
    "\"You know her heart,\" he attended; \"the rain is 愛!\"",
    "A good wife and a single man with a large fortune, that is the universally acknowledged truth!",
]
# Longer than the folder's max_seq_length, so that it is cut.
LONG = "The wife of the man with the good fortune was happy in that house, and the rain, the rain was at the house " \
    "and with her sister, but she was not to know it."


def random_weights(model):
    """Large enough that a wrong bias, a swapped matrix or a forgotten LayerNorm shows."""
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if name.endswith("LayerNorm.weight"):
                parameter += 1


def make_folder():
    vocabulary = SPECIAL + LETTERS + SIGNS + PIECES + WORDS
    assert len(set(vocabulary)) == len(vocabulary)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80,
        hidden_act="gelu", max_position_embeddings=40, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0)
    model = BertModel(config)
    random_weights(model)
    for folder in (FOLDER, NEWER):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(FOLDER)
    with open(os.path.join(FOLDER, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("".join(token + "\n" for token in vocabulary))
    tokenizer = BertTokenizerFast(
        vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=True, model_max_length=40)
    tokenizer.save_pretrained(FOLDER)
    for name, value in SETTINGS.items():
        os.makedirs(os.path.dirname(os.path.join(FOLDER, name)), exist_ok=True)
        with open(os.path.join(FOLDER, name), "w") as file:
            file.write(json.dumps(value, indent=2) + "\n")
    with tempfile.TemporaryDirectory() as saved:
        modules = [Transformer(FOLDER, max_seq_length=LIMIT), Pooling(48, pooling_mode="mean"), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(saved, create_model_card=False)
        for name in [*SETTINGS, "tokenizer_config.json"]:
            os.makedirs(os.path.dirname(os.path.join(NEWER, name)), exist_ok=True)
            shutil.copyfile(os.path.join(saved, name), os.path.join(NEWER, name))
    return len(vocabulary)


def mean(states, mask):
    mask = mask[:, :, None].to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1)


def normalised(x):
    return x / x.norm(dim=-1, keepdim=True)


def computed(tokens, dtype=torch.float64, **options):
    model = BertModel.from_pretrained(FOLDER, attn_implementation="eager", **options).to(dtype).eval()
    with torch.inference_mode():
        return model(**tokens, output_hidden_states=True, output_attentions=True)


def tokenized(texts):
    tokenizer = BertTokenizerFast.from_pretrained(FOLDER)
    return tokenizer(texts, padding=True, truncation=True, max_length=LIMIT, return_tensors="pt")


def sort_metadata(path):
    """safetensors writes metadata in another order each time: sorted, the same tensors give the same file."""
    with open(path, "rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))


def main():
    torch.set_num_threads(1)
    size = make_folder()
    tokens, long = tokenized(TEXTS), tokenized([LONG])
    mask = tokens["attention_mask"]
    result = computed(tokens)
    last = result.last_hidden_state
    tensors = {
        "input_ids": tokens["input_ids"],
        "attention_mask": mask,
        **{f"hidden_states_{i}": x for i, x in enumerate(result.hidden_states)},
        **{f"attentions_{i}": x for i, x in enumerate(result.attentions)},
        "pooler_output": result.pooler_output,
        "mean_unnormalized": mean(last, mask),
        "mean_embedding": normalised(mean(last, mask)),
        "cls_embedding": normalised(last[:, 0]),
        "long.input_ids": long["input_ids"],
        "long.mean_embedding": normalised(mean(computed(long).last_hidden_state, long["attention_mask"])),
    }
    for act in ("relu", "gelu_new"):
        state = computed(tokens, hidden_act=act).last_hidden_state
        tensors[f"{act}.mean_embedding"] = normalised(mean(state, mask))

    # Neither padding nor sentence-transformers, with settings of either form, may give another embedding.
    expected = tensors["mean_embedding"]
    alone = torch.cat([computed(tokenized([text])).hidden_states[-1].mean(1) for text in TEXTS])
    padded = (normalised(alone) - expected).abs().max().item()
    folder = 0
    with tempfile.TemporaryDirectory() as newer:
        shutil.copytree(FOLDER, newer, dirs_exist_ok=True)
        shutil.copytree(NEWER, newer, dirs_exist_ok=True)
        for path in (FOLDER, newer):
            encoded = SentenceTransformer(path, device="cpu").encode([*TEXTS, LONG], convert_to_tensor=True)
            difference = encoded - torch.cat([expected, tensors["long.mean_embedding"]])
            folder = max(folder, difference.abs().max().item())
    assert padded < 1e-12 and folder < 1e-5, (padded, folder)

    single = computed(tokens, torch.float32)
    print(f"{size} tokens in the vocabulary; lengths {mask.sum(1).tolist()}, {long['input_ids'].shape[1]} of the long text")
    for i, state in enumerate(single.hidden_states):
        error = ((state - result.hidden_states[i]) * mask[:, :, None]).abs().max().item()
        print(f"hidden_states_{i}: largest {result.hidden_states[i].abs().max().item():.2f}, error in Float {error:.1e}")
    error = (normalised(mean(single.last_hidden_state, mask)) - expected).abs().max().item()
    print(f"mean_embedding: error in Float {error:.1e}")

    stored = {n: (x.float() if x.is_floating_point() else x).contiguous().clone() for n, x in tensors.items()}
    metadata = {"texts": json.dumps(TEXTS, ensure_ascii=False), "long.text": LONG}
    reference = os.path.join(HERE, "tiny-reference.safetensors")
    save_file(stored, reference, metadata)
    sort_metadata(reference)
    for file in (reference, os.path.join(FOLDER, "model.safetensors")):
        os.chmod(file, 0o644)


if __name__ == "__main__":
    main()
