"""Options of the engine: checkpoint, sampling, the stream, decoding."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import LARGEST_SEED, group, option
from vln_ros.config.place import LookDownConfig
from vln_ros.config.reuse import LandmarkConfig, PruneConfig, ReuseConfig, StandstillConfig


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How the stream of one robot is kept and decoded."""

    decode: str = option(
        "tree",
        "How an action chunk is decoded. tree: all queues that the grammar allows in one forward; tokens: "
        "one token after the other, which works with flash attention; free: no grammar, the text is parsed. "
        "The first two give the same actions.",
        choices=("tree", "tokens", "free"),
        retired=(("forced", "for it gained nothing: set tokens, which gives the same queues"),),
    )
    tree_nodes: int = option(
        0,
        "Most nodes of the token tree in one forward, the likeliest. Too low takes several forwards, too "
        "high computes branches that nobody takes. 0 is 24 on a processor and 256 on a GPU, which computes "
        "many nodes in the time of one.",
        minimum=0, maximum=65536,
    )  # fmt: skip
    wanted_tokens: int = option(
        0,
        "How many tokens of unconstrained output are followed and reported where the model would rather "
        "leave the grammar. 0 reports the first one only; each further token costs a forward.",
        minimum=0, maximum=256,
    )  # fmt: skip
    min_allowed: float = option(
        0.5,
        "Smallest share of the model's probability that the grammar must leave it at every token; below it "
        "the robot holds and reports the unconstrained output. Too low drives on with a model that does not "
        "mean it, too high holds all the time; 0 never holds, as a model needs that was not trained for the "
        "vocabulary.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    free_tokens: int = option(
        64,
        "Longest answer, in tokens, with decode set to free. Too low cuts answers off, and they cannot be "
        "parsed; too high takes longer where the model does not come to an end.",
        minimum=1, maximum=1024,
    )  # fmt: skip
    max_phrases: int = option(
        0,
        "Most phrases in one action chunk. 0 takes the profile's number, and more than that is an error. "
        "Low numbers decide more often, high ones drive longer without a look.",
        minimum=0, maximum=64,
    )  # fmt: skip
    max_repeats: int = option(
        -1,
        "Most times that one phrase may directly follow itself in an action chunk. -1 sets no limit; low "
        "values keep the robot from driving far on one view.",
        minimum=-1, maximum=64,
    )  # fmt: skip
    reversals: bool = option(
        True,
        "Whether a turn may directly undo the one before it in the same action chunk. False keeps a robot "
        "from looking to and fro, and may keep it from a correction.",
    )
    prefill_on_arrival: bool = option(
        True,
        "Whether frames that the profile keeps are prefilled when they arrive, instead of when the model is "
        "asked. True answers sooner; frames that the profile drops are never prefilled ahead, so for those "
        "it changes nothing.",
    )
    cache_block_tokens: int = option(
        1024,
        "Number of tokens by which the KV cache grows. Small blocks are copied often while the stream grows, "
        "large ones hold memory that may never be used.",
        minimum=1, maximum=65536,
    )  # fmt: skip
    pool_tokens: int = option(
        0,
        "Tokens of keys and values that all robots on one model share, in pages of cache_block_tokens. 0 "
        "gives each robot memory of its own. A pool is taken once when the model is loaded, and growing "
        "copies nothing; one that is smaller than all token_budgets together makes a robot forget when the "
        "others hold the rest.",
        minimum=0, maximum=100000000,
    )  # fmt: skip
    chunk_tokens: int = option(
        1024,
        "Most tokens of one robot in a forward that robots on one model share; a longer prefill takes "
        "several. Few read the weights more often, many let the other robots wait for their next token.",
        minimum=16, maximum=65536,
    )  # fmt: skip
    bank_frames: int = option(
        512,
        "Most past frames whose vision features are kept, for strategies that show past frames again. Few "
        "forget the beginning of a long run, many take memory.",
        minimum=2, maximum=100000,
    )  # fmt: skip
    history_choice: str = option(
        "profile",
        "Choice of past frames that a question shows, for profiles with the context history: as the profile "
        "says, or stays (every frame at first, then every second, every fourth ..., and the newest one). "
        "With stays a question mostly begins like the one before, which saves prefill. It is a deviation: no "
        "released checkpoint was trained with it, and it keeps frames that a history_limit would drop.",
        choices=("profile", "stays"),
    )
    token_budget: int = option(
        24576,
        "Number of tokens beyond which the eviction policy removes turns from the stream. Too low forgets "
        "what the instruction still needs; too high runs out of memory, or slows every decision down.",
        minimum=64, maximum=1000000,
    )  # fmt: skip
    cache_budget_mb: int = option(
        0,
        "Memory of the KV cache beyond which turns are evicted, besides token_budget; the tighter of the two "
        "holds. 0 sets no such limit; too low forgets what the instruction still needs, too high runs out of "
        "memory.",
        unit="MB", minimum=0, maximum=1000000,
    )  # fmt: skip
    recent_turns: int = option(
        16,
        "Number of newest turns that the eviction policy leaves untouched as long as it can. Few forget what "
        "has just been seen, many leave no room for older keyframes.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    keyframes: str = option(
        "pose",
        "By which measure of novelty older turns are kept when the budget is exceeded; the least novel goes "
        "first. pose: how far apart their views were taken; appearance: how different they look.",
        choices=("pose", "appearance"),
    )
    keyframe_distance_m: float = option(
        1.0,
        "Distance between two views that counts as much as a turn by keyframe_angle_deg. Small values keep "
        "views along the way, large ones views in other directions.",
        unit="m", minimum=0.01, maximum=100.0,
    )  # fmt: skip
    keyframe_angle_deg: float = option(
        45.0,
        "Angle between two views that counts as much as a distance of keyframe_distance_m. Small values keep "
        "views in other directions, large ones views along the way.",
        unit="deg", minimum=1.0, maximum=360.0,
    )  # fmt: skip
    keyframe_difference: float = option(
        0.1,
        "Cosine distance between two views' features that counts as a novelty of 1, with keyframes set to "
        "appearance. It scales all of them alike: which views are kept does not depend on it, whether it is "
        "low or high.",
        minimum=0.0001, maximum=2.0,
    )  # fmt: skip
    keyframe_stride: int = option(
        1,
        "Of a keyframe's image only every such row and column of tokens is kept. 1 keeps all, 2 a quarter; "
        "larger values fit more keyframes into the budget and show less of each.",
        minimum=1, maximum=16,
    )  # fmt: skip
    max_position: int = option(
        30000,
        "Rotary position at which the gaps that evictions have left are closed. It must lie within what the "
        "model was trained for: too high degrades its answers, too low re-rotates the cache often.",
        minimum=1024, maximum=1000000,
    )  # fmt: skip
    standstill: StandstillConfig = group(StandstillConfig)
    prune: PruneConfig = group(PruneConfig)
    landmarks: LandmarkConfig = group(LandmarkConfig)

    def most_nodes(self, *, pays_by_row: bool) -> int:
        """:attr:`tree_nodes`, chosen where it is 0; ``pays_by_row``: on a processor."""
        return self.tree_nodes or (24 if pays_by_row else 256)


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen, where it is not to be done as the profile says."""

    top_k: int = option(
        -1,
        "Number of most probable tokens that are drawn from. 0 draws from all, -1 takes the profile's "
        "number; small numbers make answers alike, large ones let improbable actions through.",
        minimum=-1, maximum=10000000,
    )  # fmt: skip
    top_p: float = option(
        0.0,
        "Probability that the most probable tokens must reach together; only those are drawn from. 1 draws "
        "from all, 0 takes the profile's value; small values make answers alike, large ones let improbable "
        "actions through.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    repetition_penalty: float = option(
        0.0,
        "Factor by which tokens that are in the context already become less likely. 1 has no effect, 0 takes "
        "the profile's value; high values keep the model from repeating an action that is right.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QwenConfig:
    """The Qwen2.5-VL engine."""

    checkpoint: str = option(
        "",
        "Folder or hub name of a Qwen2.5-VL checkpoint, or of a LoRA adapter that names one. There is no "
        "default: what drives a robot is chosen by its owner.",
    )
    profile: str = option(
        "tiny",
        "Name of a shipped profile, or path of a profile YAML file. It must be the one that the checkpoint "
        "was trained with: another prompt or vocabulary gives poor actions.",
    )
    device: str = option(
        "auto",
        "Torch device that the model runs on: auto, cpu, cuda, cuda:1 and so on. auto takes the GPU if there "
        "is one.",
    )
    dtype: str = option(
        "auto",
        "Number format of the weights. auto: bfloat16 on a GPU and float32 on a CPU; float32: exact, and "
        "twice the memory; bfloat16: the format of the released weights; float16: may overflow, which is "
        "found and reported.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    attention: str = option(
        "sdpa",
        "Attention implementation of transformers. sdpa: fast everywhere; eager: slow and simple; "
        "flash_attention_2: fast on a GPU, but takes no mask, so that decode must be tokens or free and "
        "reuse is refused.",
        choices=("sdpa", "eager", "flash_attention_2"),
    )
    quantisation: str = option(
        "none",
        "How the decoder's weights are quantised when they are loaded, which saves memory and may change "
        "decisions; the vision tower stays as it is. none: not at all, or a folder whose weights are "
        "quantised already; bitsandbytes-8bit, bitsandbytes-4bit, torchao-int8, torchao-fp8 and "
        "torchao-int4: by the library that is named, which must be installed.",
        choices=(
            "none",
            "bitsandbytes-8bit",
            "bitsandbytes-4bit",
            "torchao-int8",
            "torchao-fp8",
            "torchao-int4",
        ),
    )
    accelerate: str = option(
        "none",
        "How forwards of the same shape are run again. none: each is started kernel by kernel; graphs: they "
        "are recorded as CUDA graphs and started at once, which needs a CUDA device; compile: torch.compile "
        "makes other code of them, which takes minutes before the first run. Both hold the whole cache from "
        "the beginning. What cannot be recorded runs as with none, and the log and /diagnostics say why.",
        choices=("none", "graphs", "compile"),
    )
    temperature: float = option(
        -1.0,
        "Temperature of sampling. 0 always takes the most probable token, -1 takes the profile's value; "
        "higher values vary actions more, and above 1 they become random.",
        minimum=-1.0, maximum=10.0,
    )  # fmt: skip
    seed: int = option(
        0,
        "Seed of sampling. The same seed, instructions and frames give the same actions; it has no effect at "
        "temperature 0.",
        minimum=0, maximum=LARGEST_SEED,
    )  # fmt: skip
    sampling: SamplingConfig = group(SamplingConfig)
    stream: StreamConfig = group(StreamConfig)
    reuse: ReuseConfig = group(ReuseConfig)
    look_down: LookDownConfig = group(LookDownConfig)


@dataclass(frozen=True)
class PacedConfig:
    """The engine that only takes time: for measuring the graph around it."""

    decision_ms: float = option(
        100.0,
        "Time that the paced engine computes for each decision. 0 measures the graph alone; higher values "
        "stand for a slower model.",
        unit="ms", minimum=0.0, maximum=60000.0,
    )  # fmt: skip
