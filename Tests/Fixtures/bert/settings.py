#!/usr/bin/env python3
"""Folders with the tiny model under other settings, and the vectors that sentence-transformers makes with them.

    python -m pip install torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0
    python Tests/Fixtures/bert/settings.py

Writes settings.json, which says what differs from tiny/, and settings-reference.safetensors beside this file.
"""

import json
import os
import shutil
import tempfile

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = os.path.join(HERE, "tiny")
TEXTS = [
    "Truth", "", "Very  happy!", "It was not the walking sister.", "At the Café:\tattendance of 8",
    "A good wife and a single man with a large fortune, that is the universally acknowledged truth!",
    "The wife of the man with the good fortune was happy in that house, and the rain, the rain was at the house "
    "and with her sister, but she was not to know it.",
    "the newTok and NEWTOK, the newtoks; renewtok",
    "a solo man, soloist solo, SOLO; x_solo solo_x désolo solo!",
    "rain<here>at  <here>  the house<HERE>", "in_good_house a Good House, agood house good house",
]

BASE = {"sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False}}
PLAIN = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def flags(*modes, **others):
    names = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    return {"word_embedding_dimension": 48, **{f"pooling_mode_{name}": name in modes for name in names}, **others}


def pooled(pooling, modules=PLAIN, **files):
    return {"files": {"modules.json": modules, "1_Pooling/config.json": pooling, **files}}


def tiny_json(name):
    with open(os.path.join(TINY, name), encoding="utf-8") as file:
        return json.load(file)


def changed(name, **members):
    content = tiny_json(name)
    content.update(members)
    return content


def token(id, content, **members):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": id, "content": content, **flags, **members}


ADDED = [
    token(113, "newTok", normalized=True), token(114, "solo", single_word=True, normalized=True),
    token(115, "<here>", lstrip=True, rstrip=True, special=True),
    token(116, "Good House", normalized=True, single_word=True),
]
RAW = [
    token(113, "newtok"), token(114, "solo", single_word=True), token(115, "<here>", lstrip=True),
    token(116, "good house", rstrip=True),
]


def with_added(tokens):
    content = tiny_json("tokenizer.json")
    content["added_tokens"] += tokens
    return content


def decoder(tokens):
    return {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokens}


def prompts(**members):
    texts = {"query": "The good ", "passage": "a letter: ", "empty": ""}
    return {"config_sentence_transformers.json": {"prompts": texts, **members}}


VARIANTS = {
    **{f"pooling {mode}": pooled(flags(mode)) for mode in
       ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]},
    "pooling mean and last": pooled(flags("mean_tokens", "lasttoken")),
    "pooling cls and weighted mean, normalised": {
        "files": {"1_Pooling/config.json": flags("weightedmean_tokens", "cls_token")}},
    "pooling all": pooled(flags("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens",
                                "weightedmean_tokens", "lasttoken")),
    "pooling in another order": pooled({"embedding_dimension": 48, "pooling_mode": ["lasttoken", "max", "mean"]}),
    "pooling of newer files": pooled({"embedding_dimension": 48, "pooling_mode": "weightedmean"}),
    "no Normalize": {"files": {"modules.json": PLAIN}},
    "prompts, none by default": {"files": prompts()},
    "prompts, one by name": {"files": prompts(), "prompt": "query"},
    "prompts, one by default": {"files": prompts(default_prompt_name="passage")},
    "prompts, an empty one by name": {"files": prompts(default_prompt_name="passage"), "prompt": "empty"},
    "prompt left out of the mean": pooled(flags("mean_tokens", include_prompt=False), **prompts(), ) | {"prompt": "query"},
    "prompt left out of all": pooled(
        flags("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken",
              include_prompt=False), **prompts(default_prompt_name="passage")),
    "truncate_dim": {"files": {"config_sentence_transformers.json": {"truncate_dim": 20}}},
    "truncate_dim of a pair": pooled(
        flags("mean_tokens", "cls_token"), **{"config_sentence_transformers.json": {"truncate_dim": 60}}),
    "gamma and beta": {"files": {}, "older_names": True},
    "added tokens": {"files": {"tokenizer.json": with_added(ADDED)}, "grow": 4},
    "added tokens in the raw text": {"files": {"tokenizer.json": with_added(RAW)}, "grow": 4},
    "added_tokens_decoder": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", added_tokens_decoder=decoder(ADDED))},
        "grow": 4},
    "added_tokens_decoder beside vocab.txt": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", added_tokens_decoder=decoder(ADDED)),
                  "tokenizer.json": None}, "grow": 4},
    "added_tokens.json": {"files": {"added_tokens.json": {"newTok": 113, "solo": 114}}, "grow": 4},
    "added_tokens.json beside vocab.txt": {
        "files": {"added_tokens.json": {"newTok": 113, "solo": 114}, "tokenizer.json": None}, "grow": 4},
    "letters as they are": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", do_lower_case=False)}},
    "accents as they are": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", strip_accents=False)}},
    "small letters by sentence_bert_config": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", do_lower_case=False),
                  "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True}}},
    "small letters by sentence_bert_config, with added tokens": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", do_lower_case=False),
                  "tokenizer.json": with_added(ADDED),
                  "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True}}, "grow": 4},
    "cut at the front": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", truncation_side="left")}},
    "max_len": {"files": {"sentence_bert_config.json": None, "tokenizer_config.json": {
        **{k: v for k, v in tiny_json("tokenizer_config.json").items() if k != "model_max_length"}, "max_len": 9}}},
    "sentence_roberta_config": {
        "files": {"sentence_bert_config.json": None, "sentence_roberta_config.json": {"max_seq_length": 7}}},
    "another class of tokenizer": {
        "files": {"tokenizer_config.json": changed("tokenizer_config.json", tokenizer_class="DistilBertTokenizerFast")}},
    "a class without settings": {
        "files": {"tokenizer_config.json": changed(
            "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False)}},
}


def make(folder, variant):
    shutil.copytree(TINY, folder)
    for name, content in variant["files"].items():
        path = os.path.join(folder, name)
        if content is None:
            os.remove(path)
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
    weights = load_file(os.path.join(folder, "model.safetensors"))
    if rows := variant.get("grow"):
        # The new tokens' embeddings are those of tokens 10, 11 …
        words = weights["embeddings.word_embeddings.weight"]
        weights["embeddings.word_embeddings.weight"] = torch.cat([words, words[10:10 + rows]])
        config = changed("config.json", vocab_size=words.shape[0] + rows)
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config, file)
    if variant.get("older_names"):
        # As Google's checkpoints have them.
        weights = {
            "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in weights.items()}
        weights["cls.predictions.bias"] = torch.zeros(113)
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


def main():
    torch.set_num_threads(1)
    vectors = {}
    with tempfile.TemporaryDirectory() as parent:
        for index, (name, variant) in enumerate(VARIANTS.items()):
            folder = os.path.join(parent, str(index))
            make(folder, variant)
            model = SentenceTransformer(folder, device="cpu")
            vectors[name] = torch.from_numpy(model.encode(TEXTS, prompt_name=variant.get("prompt"), batch_size=4))
    save_file(dict(sorted(vectors.items())), os.path.join(HERE, "settings-reference.safetensors"))
    with open(os.path.join(HERE, "settings.json"), "w", encoding="utf-8") as file:
        json.dump({"texts": TEXTS, "variants": VARIANTS}, file, ensure_ascii=False, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
