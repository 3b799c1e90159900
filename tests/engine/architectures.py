"""Architectures that others wrote, tiny and with random weights: Hugging Face's, built from configuration alone.

``ARCHITECTURES`` are functions without arguments that return a network in evaluation mode and its inputs. Nothing is
downloaded. Transformers is imported when the first of them is called.
"""

import importlib
from collections.abc import Callable

import torch
from tests.engine.zoo import seeded, settled
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shaketable.forward import Inputs

UNUSED = {
    "dinov2": {"dinov2.embeddings.mask_token"},
    "cvt": {  # only the class token is read, and its query is not convolved
        "cvt.encoder.stages.2.layers.2.attention.attention.convolution_projection_query.convolution_projection.convolution",
        "cvt.encoder.stages.2.layers.2.attention.attention.convolution_projection_query.convolution_projection.normalization",
    },
    "levit": {  # kept by the first call in evaluation mode: other weights do not reach it, in a plain loop either
        f"levit.encoder.stages.{layer}.attention_biases"
        for layer in ("0.layers.0.module", "0.layers.2", "1.layers.0.module", "1.layers.2", "2.layers.0.module")
    },
}
"""By architecture, the layers (by module) on which the logits do not depend."""

N, CLASSES, TOKENS, VOCABULARY, IMAGE = 5, 4, 7, 30, 32

ARCHITECTURES: dict[str, Callable[[], tuple[nn.Module, Inputs]]] = {}

TEXT = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
POSITIONS = dict(max_position_embeddings=16, num_labels=CLASSES)
ENDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
DECODER = dict(**TEXT, **ENDS, max_position_embeddings=16, num_key_value_heads=2)
EXPERTS = dict(moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1)
VISION = dict(image_size=IMAGE, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
VISION |= dict(intermediate_size=48, num_labels=CLASSES)


def pixels(size: int = IMAGE) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(N, 3, size, size)}


def text() -> dict[str, Tensor]:
    """Tokens with padding at the end of some examples."""
    mask = (torch.arange(TOKENS) < torch.tensor([7, 4, 7, 5, 6])[:, None]).long()
    return {"input_ids": torch.randint(3, VOCABULARY, (N, TOKENS)) * mask, "attention_mask": mask}


def ids() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, VOCABULARY, (N, TOKENS))}


def sequence_to_sequence() -> dict[str, Tensor]:
    return {**text(), "decoder_input_ids": torch.randint(3, VOCABULARY, (N, 4))}


def louder(network: nn.Module) -> nn.Module:
    """Weights so large that every layer matters: initial ones are small, and noise in biases would drown their signal."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                sources = parameter[0].numel() if parameter.dim() == 4 else parameter.shape[-1]
                parameter.mul_(1.5 / (sources**0.5 * parameter.square().mean().sqrt()))
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.weight.mean() < 0.5:
                module.weight.add_(1)  # some start near 0
    return network


def calibrated(network: nn.Module, inputs: dict[str, Tensor]) -> nn.Module:
    """Running statistics of batch norms as on the inputs, so that signals neither vanish nor explode."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = 1.0
        with torch.no_grad():
            network(**inputs)
        for norm, momentum in zip(norms, momenta):
            norm.eval().momentum = momentum
    return network


def architecture(name: str, model: str, draw: Callable[[], dict[str, Tensor]], /, config: str = "", **options) -> None:
    """Register a model of transformers: its class, what draws its inputs, its class of configuration and the options."""

    def build() -> tuple[nn.Module, Inputs]:
        transformers = importlib.import_module("transformers")
        with seeded(name):
            made = getattr(transformers, config or model.split("For")[0] + "Config")(**options)
            network, inputs = louder(settled(getattr(transformers, model)(made))), draw()
            return calibrated(network, inputs), inputs

    ARCHITECTURES[name] = build


# Images

architecture("vit", "ViTForImageClassification", pixels, **VISION)
architecture("deit", "DeiTForImageClassificationWithTeacher", pixels, config="DeiTConfig", **VISION)
architecture(
    "beit", "BeitForImageClassification", pixels, **VISION, use_relative_position_bias=True, layer_scale_init_value=0.5
)
architecture("dinov2", "Dinov2ForImageClassification", pixels, **VISION, mlp_ratio=2, layerscale_value=0.5)
architecture(
    "swin",
    "SwinForImageClassification",
    pixels,
    image_size=IMAGE,
    patch_size=2,
    window_size=4,
    embed_dim=16,
    depths=[2, 2],
    num_heads=[2, 4],
    num_labels=CLASSES,
)
architecture(
    "convnext",
    "ConvNextForImageClassification",
    pixels,
    patch_size=2,
    hidden_sizes=[8, 16, 24, 32],
    depths=[1, 1, 2, 1],
    layer_scale_init_value=0.5,
    num_labels=CLASSES,
)
architecture(
    "resnet",
    "ResNetForImageClassification",
    pixels,
    embedding_size=8,
    hidden_sizes=[8, 16, 32],
    depths=[1, 2, 1],
    layer_type="bottleneck",
    num_labels=CLASSES,
)
architecture(
    "regnet",
    "RegNetForImageClassification",
    pixels,
    embedding_size=8,
    hidden_sizes=[8, 16, 32],
    depths=[1, 2, 1],
    groups_width=4,
    layer_type="y",
    num_labels=CLASSES,
)
architecture(
    "bit",
    "BitForImageClassification",
    pixels,
    embedding_size=8,
    hidden_sizes=[16, 32],
    depths=[1, 2],
    num_groups=4,
    global_padding="same",
    num_labels=CLASSES,
)
architecture(
    "mobilenet_v2",
    "MobileNetV2ForImageClassification",
    pixels,
    image_size=IMAGE,
    depth_multiplier=0.25,
    num_labels=CLASSES,
)
architecture(
    "efficientnet",
    "EfficientNetForImageClassification",
    pixels,
    image_size=IMAGE,
    width_coefficient=0.25,
    depth_coefficient=0.5,
    hidden_dim=320,
    num_labels=CLASSES,
)
architecture(
    "mobilevit",
    "MobileViTForImageClassification",
    lambda: pixels(64),
    image_size=64,
    output_stride=16,
    hidden_sizes=[16, 16, 16],
    neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
    num_attention_heads=2,
    num_labels=CLASSES,
)
architecture(
    "poolformer",
    "PoolFormerForImageClassification",
    lambda: pixels(64),
    config="PoolFormerConfig",
    hidden_sizes=[8, 16, 16, 32],
    depths=[1, 1, 2, 1],
    layer_scale_init_value=0.5,
    num_labels=CLASSES,
)
architecture(
    "segformer",
    "SegformerForImageClassification",
    lambda: pixels(64),
    sr_ratios=[4, 2, 1, 1],
    hidden_sizes=[8, 16, 16, 32],
    depths=[1, 1, 1, 1],
    num_attention_heads=[1, 2, 2, 4],
    num_labels=CLASSES,
)
architecture(
    "cvt",
    "CvtForImageClassification",
    pixels,
    embed_dim=[8, 16, 32],
    num_heads=[1, 2, 4],
    depth=[1, 2, 3],
    num_labels=CLASSES,
)
architecture(
    "levit",
    "LevitForImageClassification",
    lambda: pixels(64),
    image_size=64,
    hidden_sizes=[16, 32, 48],
    num_attention_heads=[2, 2, 2],
    depths=[1, 1, 1],
    key_dim=[8, 8, 8],
    num_labels=CLASSES,
)

# Text

architecture("bert", "BertForSequenceClassification", text, **TEXT, **POSITIONS)
architecture("roberta", "RobertaForSequenceClassification", text, **TEXT, **POSITIONS, **ENDS)
architecture("electra", "ElectraForSequenceClassification", text, **TEXT, **POSITIONS, embedding_size=16)
architecture("albert", "AlbertForSequenceClassification", text, **TEXT, **POSITIONS, embedding_size=16)
architecture(
    "deberta",
    "DebertaV2ForSequenceClassification",
    text,
    **TEXT,
    **POSITIONS,
    relative_attention=True,
    pos_att_type=["c2p", "p2c"],
    position_biased_input=False,
)
architecture(
    "distilbert",
    "DistilBertForSequenceClassification",
    text,
    vocab_size=VOCABULARY,
    max_position_embeddings=16,
    dim=32,
    n_layers=2,
    n_heads=4,
    hidden_dim=48,
    num_labels=CLASSES,
)
architecture("fnet", "FNetForSequenceClassification", ids, **TEXT, **POSITIONS)
architecture(
    "gpt2",
    "GPT2LMHeadModel",
    ids,
    config="GPT2Config",
    vocab_size=VOCABULARY,
    n_positions=16,
    n_embd=32,
    n_layer=2,
    n_head=4,
    bos_token_id=1,
    eos_token_id=2,
)
architecture(
    "opt",
    "OPTForCausalLM",
    ids,
    **ENDS,
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    ffn_dim=48,
    max_position_embeddings=16,
    word_embed_proj_dim=16,
)
architecture("gpt_neox", "GPTNeoXForCausalLM", ids, **TEXT, max_position_embeddings=16)
architecture("llama", "LlamaForCausalLM", text, **DECODER)
architecture("gemma", "GemmaForCausalLM", ids, **DECODER, head_dim=8)
architecture("qwen2_moe", "Qwen2MoeForCausalLM", ids, **DECODER, **EXPERTS, shared_expert_intermediate_size=24)
architecture("mixtral", "MixtralForCausalLM", ids, **DECODER, num_local_experts=4, num_experts_per_tok=2)
architecture(
    "t5",
    "T5ForConditionalGeneration",
    sequence_to_sequence,
    vocab_size=VOCABULARY,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    pad_token_id=0,
    eos_token_id=2,
    decoder_start_token_id=0,
)
architecture(
    "bart",
    "BartForConditionalGeneration",
    sequence_to_sequence,
    **ENDS,
    vocab_size=VOCABULARY,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    max_position_embeddings=16,
    decoder_start_token_id=2,
    forced_eos_token_id=None,
)
architecture(
    "mamba",
    "MambaForCausalLM",
    ids,
    **ENDS,
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    state_size=8,
    time_step_rank=4,
)
