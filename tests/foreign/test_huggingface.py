"""Models of transformers, built from configurations with random weights: data, labels, names of layers, fresh draws."""

import copy
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from shaketable.engine.fused import Fused
from shaketable.engine.replica import Unsuitable
from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.foreign import from_huggingface
from shaketable.forward import forward
from shaketable.params import layers, state
from shaketable.perturb import fresh_params
from shaketable.probes import joint_robustness, robustness
from shaketable.study import Study

pytestmark = pytest.mark.usefixtures("transformers")
VOCABULARY, WIDTH = 30, 16
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def model(kind: str, config: str, **options) -> nn.Module:
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()


def llama(**options) -> nn.Module:
    return model("LlamaForCausalLM", "LlamaConfig", **{**SIZES, "num_key_value_heads": 2, **options})


def bert(**options) -> nn.Module:
    return model("BertForSequenceClassification", "BertConfig", **SIZES, **options)


def vit() -> nn.Module:
    sizes = {
        key: SIZES[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    return model("ViTForImageClassification", "ViTConfig", **sizes, image_size=8, patch_size=4, num_labels=3)


class Tokenizer:
    """Called as the library's are: a token for each letter, padded with 0 where asked to."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 29

    def __call__(self, texts, text_pair=None, padding=False, truncation=False, max_length=None, return_tensors=None):
        texts = texts if text_pair is None else [f"{a}{b}" for a, b in zip(texts, text_pair)]
        rows = [
            [ord(letter) - 94 for letter in text if letter.isalpha()][: max_length if truncation else None]
            for text in texts
        ]
        masks = [[1] * len(row) for row in rows]
        if padding:
            longest = max(map(len, rows))
            masks = [mask + [0] * (longest - len(mask)) for mask in masks]
            rows = [row + [0] * (longest - len(row)) for row in rows]
        found = {"input_ids": rows, "attention_mask": masks, "special": rows}
        return {name: torch.tensor(value) for name, value in found.items()} if return_tensors else found


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


def names(network: nn.Module, inputs, by="module") -> list[str]:
    return [layer.name for layer in layers(network, by, inputs)]


# Names of layers


def test_a_llama_has_gated_mlps_grouped_queries_one_tied_embedding_and_no_layer_for_its_rotary_tables():
    network, block = llama(tie_word_embeddings=True), "model.layers.0"
    found = layers(network, "module", {"input_ids": ids(2, 5)})
    assert [layer.name for layer in found] == [
        "model.embed_tokens",
        f"{block}.input_layernorm",
        *[f"{block}.self_attn.{part}_proj" for part in "qkvo"],
        f"{block}.post_attention_layernorm",
        *[f"{block}.mlp.{part}_proj" for part in ("gate", "up", "down")],
        "model.norm",
    ]
    tensors = state(network)
    assert [tuple(tensors[f"{block}.self_attn.{part}_proj.weight"].shape) for part in "qk"] == [(16, 16), (8, 16)]
    assert any("inv_freq" in name for name, _ in network.named_buffers())
    assert not any("inv_freq" in name for layer in found for name in layer.params + layer.buffers)
    assert names(network, {"input_ids": ids(2, 5)}, "block") == ["model.embed_tokens", block, "model.norm"]
    assert names(llama(tie_word_embeddings=False), {"input_ids": ids(2, 5)})[-1] == "lm_head"


def test_a_gpt2_has_its_tied_embedding_positions_and_joint_projections():
    network = model("GPT2LMHeadModel", "GPT2Config", vocab_size=30, n_positions=16, n_embd=16, n_layer=1, n_head=2,
                    bos_token_id=1, eos_token_id=2)  # fmt: skip
    block = "transformer.h.0"
    expected = [f"{block}.{part}" for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")]
    found = names(network, {"input_ids": ids(2, 5)})
    assert found == ["transformer.wte", "transformer.wpe", *expected, "transformer.ln_f"]


def test_a_bert_and_a_vit_have_the_names_of_their_parts_and_a_block_each():
    found = names(bert(num_labels=3), {"input_ids": ids(2, 5)})
    assert [f"bert.encoder.layer.0.attention.self.{part}" in found for part in ("query", "key", "value")] == [True] * 3
    assert {"bert.embeddings.word_embeddings", "bert.pooler.dense", "classifier"} <= set(found)
    assert "bert.encoder.layer.0" in names(bert(num_labels=3), {"input_ids": ids(2, 5)}, "block")
    images = {"pixel_values": torch.zeros(2, 3, 8, 8)}
    found = names(vit(), images)
    assert found[0] == "vit.embeddings.cls_token"
    assert found[-1] == "classifier"
    assert len(names(vit(), images, "block")) == 6  # token, positions, patches, block, norm, classifier


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2Moe"])
def test_a_mixture_has_its_router_and_its_experts(kind):
    options = {"num_local_experts": 3} if kind == "Mixtral" else {"num_experts": 3, "moe_intermediate_size": 8}
    network = model(
        f"{kind}ForCausalLM", f"{kind}Config", **SIZES, num_key_value_heads=2, num_experts_per_tok=2, **options
    )
    found = names(network, {"input_ids": ids(2, 5)})
    assert {"model.layers.0.mlp.gate", "model.layers.0.mlp.experts"} <= set(found)
    if kind == "Qwen2Moe":
        parts = ("gate_proj", "up_proj", "down_proj")
        assert {f"model.layers.0.mlp.shared_expert.{part}" for part in parts} <= set(found)


def test_a_block_that_writes_keys_and_values_into_a_cache_can_be_removed():
    network, tokens, mask = llama(num_hidden_layers=2), ids(3, 5), torch.ones(3, 5, dtype=torch.long)
    mask[0, 3:] = 0
    study = Study.from_huggingface(network, {"input_ids": tokens, "attention_mask": mask})
    result = joint_robustness(study, {"first": "model.layers.0", "both": "model.layers.*"}, draws=0, checkpoints=[])
    found = dict(result.table.filter(perturbation="remove").select("group", "loss").rows())
    labels = study.data("test").labels
    for name, count in (("first", 1), ("both", 2)):
        smaller = copy.deepcopy(network)
        smaller.model.layers = smaller.model.layers[count:]
        with torch.no_grad():
            logits = smaller(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        expected = nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100])
        assert found[name] == pytest.approx(float(expected), rel=1e-5)


def test_a_rotary_table_that_is_saved_belongs_to_no_layer_and_is_not_reset():
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("inv_freq", torch.arange(4.0))

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rotary, self.query = Rotary(), nn.Linear(4, 4)

        def forward(self, x):
            return self.query(x * self.rotary.inv_freq)

    network = nn.Sequential(Attention(), nn.Linear(4, 2)).eval()
    assert names(network, torch.zeros(1, 4)) == ["0.query", "1"]
    assert "0.rotary.inv_freq" not in fresh_params(network, 0)[0]


# Fresh draws


@pytest.mark.parametrize("network", [llama, bert, vit], ids=["llama", "bert", "vit"])
def test_fresh_draws_follow_the_models_own_rule(network):
    made = network()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(7)
    for module in made.modules():
        module._is_hf_initialized = True  # as after from_pretrained
    study = from_huggingface(made)
    fresh, sources = fresh_params(made, 0, initialise=study.initialise)
    assert set(sources.values()) == {"initialiser"}
    assert {name for name, _ in made.named_parameters()} <= set(fresh)
    for name, tensor in fresh.items():
        if "norm" in name.lower():
            assert tensor.unique().tolist() == [float(name.endswith("weight"))]
        elif name.endswith(("proj.weight", "dense.weight")):
            error = tensor.std() / made.config.initializer_range - 1
            assert abs(float(error)) < 3 / (2 * tensor.numel()) ** 0.5
    assert all(parameter.eq(7).all() for parameter in made.parameters())


# Data


def test_a_causal_models_own_inputs_are_its_labels_and_the_loss_is_its_own():
    network, tokens = llama(), ids(4, 9)
    study = Study.from_huggingface(network, {"input_ids": tokens})
    with torch.no_grad():
        own = float(network(input_ids=tokens, labels=tokens).loss)
    sums = evaluate(network, study.final, study.data("test"))
    assert sums.examples == 4 * 8
    assert sums.loss / sums.examples == pytest.approx(own, rel=1e-5)
    assert study.task == "language modelling"


def test_padding_and_labels_of_minus_100_are_not_scored_as_in_the_models_own_loss():
    network, tokens, mask = llama(), ids(3, 6), torch.ones(3, 6, dtype=torch.long)
    mask[0, 4:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    with torch.no_grad():
        own = float(network(input_ids=tokens, attention_mask=mask, labels=labels).loss)
    for given in ({"labels": labels}, {}):
        study = Study.from_huggingface(network, {"input_ids": tokens, "attention_mask": mask, **given})
        sums = evaluate(network, study.final, study.data("test"))
        assert sums.examples == 3 * 5 - 2
        assert sums.loss / sums.examples == pytest.approx(own, rel=1e-5)


def test_what_would_be_predicted_from_padding_on_the_left_is_not_scored():
    tokens, mask = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    test = Study.from_huggingface(llama(), {"input_ids": tokens, "attention_mask": mask}).data("test")
    assert test.labels.tolist() == [[-100, -100, 6, 7, -100], [4, 5, 6, 7, -100]]


def test_a_running_text_becomes_rows_whose_labels_are_the_next_tokens():
    study = Study.from_huggingface(llama(), ["abcdef", "ghij"], Tokenizer(), length=4)
    stream = [ord(letter) - 94 for letter in "abcdefghij"]
    test = study.data("test")
    assert test.inputs["input_ids"].tolist() == [stream[:4], stream[4:8]]
    assert test.labels.tolist() == [stream[1:5], stream[5:9]]


def test_texts_with_labels_are_padded_and_masked_and_inputs_that_the_model_does_not_take_are_left_out():
    study = Study.from_huggingface(bert(num_labels=3), (["abc", "a"], [0, 2]), Tokenizer(), train=(["ab"], [1]))
    assert set(study.data("test").inputs) == {"input_ids", "attention_mask"}
    assert study.data("test").inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert study.classes == 3
    result = robustness(study, draws=1, splits=["test"])
    rows = result.table.filter(result.table["perturbation"] == "rerandomise")
    assert set(rows["distribution"]) == {"initialiser"}


def test_label_names_become_the_models_numbers():
    network = bert(num_labels=3, label2id={"no": 0, "maybe": 1, "yes": 2}, id2label={0: "no", 1: "maybe", 2: "yes"})
    study = Study.from_huggingface(network, (["abc", "a"], ["Yes", "no"]), Tokenizer())
    assert study.data("test").labels.tolist() == [2, 0]
    with pytest.raises(InputError, match="label 'perhaps' is no class of the model; it has no, maybe, yes"):
        Study.from_huggingface(network, (["abc"], ["perhaps"]), Tokenizer())


def test_a_data_set_whose_classes_are_the_models_in_another_order_is_translated():
    datasets = pytest.importorskip("datasets")
    network = bert(num_labels=2, label2id={"BAD": 0, "GOOD": 1}, id2label={0: "BAD", 1: "GOOD"})
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["abc", "ab"], "label": [0, 1]}, features=features)
    assert Study.from_huggingface(network, rows, Tokenizer()).data("test").labels.tolist() == [1, 0]
    tokenised = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "label": [0, 1], "other": ["x", "y"]})
    test = Study.from_huggingface(network, tokenised).data("test")
    assert test.inputs["input_ids"].tolist() == [[1, 2], [3, 0]]
    assert test.labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="there is no column 'sentence'; the columns are text, label"):
        Study.from_huggingface(network, rows, Tokenizer(), text="sentence", image="sentence")


def test_a_list_of_dicts_and_a_loader_of_batches_are_the_same_data():
    items = [{"input_ids": row, "labels": number} for row, number in zip(ids(5, 4), [0, 1, 2, 0, 1])]
    listed, loaded = (
        Study.from_huggingface(bert(num_labels=3), data) for data in (items, DataLoader(items, batch_size=2))
    )
    assert listed.data("test").fingerprint() == loaded.data("test").fingerprint()


def test_images_go_through_the_processor():
    def processor(images, return_tensors):
        pixels = [torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1 for image in images]
        return {"pixel_values": torch.stack(pixels)}

    images = [Image.new("RGB", (8, 8), (255, 0, 255))] * 70
    study = Study.from_huggingface(vit(), (images, [0] * 70), processor=processor)
    assert study.data("test").inputs["pixel_values"][69, :, 0, 0].tolist() == [1, -1, 1]


def test_an_encoder_decoder_gets_the_decoder_inputs_that_it_makes_of_labels_itself():
    network = model("T5ForConditionalGeneration", "T5Config", vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1,
                    num_heads=2, decoder_start_token_id=0)  # fmt: skip
    tokens, labels = ids(2, 5), ids(2, 4)
    study = Study.from_huggingface(network, {"input_ids": tokens, "labels": labels})
    with torch.no_grad():
        own = float(network(input_ids=tokens, labels=labels).loss)
    sums = evaluate(network, study.final, study.data("test"))
    assert sums.loss / sums.examples == pytest.approx(own, rel=1e-5)


def test_an_encoder_decoder_that_does_not_say_how_its_outputs_begin_is_one_clear_error():
    network = model("T5ForConditionalGeneration", "T5Config", vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1,
                    num_heads=2)  # fmt: skip
    with pytest.raises(InputError, match="set decoder_start_token_id"):
        Study.from_huggingface(network, {"input_ids": ids(2, 5), "labels": ids(2, 4)})


def test_a_model_by_folder_is_the_class_of_its_configuration(tmp_path):
    network = llama()
    network.save_pretrained(tmp_path / "mine")
    study = Study.from_huggingface(tmp_path / "mine", {"input_ids": ids(2, 5)})
    assert type(study.network) is type(network)
    assert study.name == "mine"
    assert all(torch.equal(study.final[name], tensor) for name, tensor in state(network).items())
    shared = Study.from_huggingface(network, {"input_ids": ids(2, 5)}, share=True)
    assert shared.final["model.norm.weight"].data_ptr() == network.model.norm.weight.data_ptr()
    with pytest.raises(InputError, match="transformers cannot load it"):
        Study.from_huggingface(tmp_path)


# Bad input


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("", {"tokenizer": Tokenizer()}, "test data: the text has 0 tokens after tokenising"),
        (["abc"], {}, "give the tokenizer"),
        ({"input_ids": [[1, 99]]}, {}, "token 99 is beyond the model's embedding of 30 tokens"),
        ({"nothing": [[1]]}, {}, "none of 'nothing' is an input of LlamaForCausalLM"),
        ({"input_ids": [[1, 2]], "labels": [[0.5, 0.5]]}, {}, "numbers to be predicted"),
        ("abcdef", {"tokenizer": Tokenizer(), "length": 0}, "length=0"),
    ],
)
def test_bad_data_is_one_clear_error(data, options, message):
    with pytest.raises(InputError, match=message):
        Study.from_huggingface(llama(), data, **options)


def test_a_tokenizer_that_does_not_fit_and_other_models_are_one_clear_error():
    with pytest.raises(InputError, match="the tokenizer has 29 tokens and the model's embedding 20"):
        Study.from_huggingface(llama(vocab_size=20), "abc", Tokenizer())
    narrow = llama(tie_word_embeddings=False)
    narrow.lm_head = nn.Linear(WIDTH, 12)
    with pytest.raises(InputError, match="the tokenizer has 29 tokens and the model's output layer 12"):
        Study.from_huggingface(narrow, "abc", Tokenizer())
    with pytest.raises(InputError, match="is no causal language model"):
        Study.from_huggingface(bert(num_labels=3), "abc", Tokenizer())
    with pytest.raises(InputError, match="there are no labels"):
        Study.from_huggingface(bert(num_labels=3), {"input_ids": ids(2, 3)})
    with pytest.raises(InputError, match="these are images; give the image processor"):
        Study.from_huggingface(vit(), ([Image.new("RGB", (8, 8))], [0]))
    with pytest.raises(InputError, match="model is a int"):
        Study.from_huggingface(3)
    packed = nn.Linear(2, 2).eval()
    packed.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match=r"'weight' holds packed weights \(torch.uint8\)"):
        Study.from_huggingface(packed)


def test_a_name_without_the_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'shaketable\[huggingface\]'"):
        Study.from_huggingface("gpt2")


# Graphs


GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 16,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT = {"ffn_dim": 24, "word_embed_proj_dim": WIDTH, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GRAPHS = {
    "LlamaForCausalLM": {**SIZES, "num_key_value_heads": 2},
    "Qwen2ForCausalLM": {**SIZES, "num_key_value_heads": 2},
    "GPTNeoXForCausalLM": SIZES,
    "OPTForCausalLM": {**SIZES, **OPT},
    "GPT2LMHeadModel": GPT2,
    "BertForSequenceClassification": SIZES,
    "RobertaForSequenceClassification": SIZES,
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_transformer_without_a_padding_mask_has_a_graph_with_its_logits_bit_for_bit(kind):
    network = model(kind, f"{kind.removesuffix('LMHeadModel').partition('For')[0]}Config", **GRAPHS[kind])
    inputs, drawn = {"input_ids": ids(3, 5)}, torch.Generator().manual_seed(0)
    with torch.no_grad():
        fused = Fused(network, state(network), inputs)
        assert fused.plain
        assert torch.equal(fused.base(inputs), forward(network, inputs))
        for layer in layers(network, "module", inputs):
            changes = {name: torch.randn(state(network)[name].shape, generator=drawn) for name in layer.params}
            assert torch.equal(fused.logits(changes), forward(network, inputs, changes)), layer.name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padding_mask_leaves_a_graph_where_no_code_asks_whether_anything_is_padded(attention):
    network, mask = llama(attn_implementation=attention), torch.ones(3, 5, dtype=torch.long)
    mask[0, 3:] = 0
    inputs = {"input_ids": ids(3, 5), "attention_mask": mask}
    if attention == "sdpa":
        with pytest.raises(Unsuitable, match="traced"):
            Fused(network, state(network), inputs)
        return
    with torch.no_grad():
        fused, full = Fused(network, state(network), inputs), {**inputs, "attention_mask": torch.ones_like(mask)}
        assert torch.equal(fused.base(inputs), forward(network, inputs))
        assert torch.equal(fused.base(full), forward(network, full))
