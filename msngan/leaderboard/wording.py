"""What a block's numbers are, in words."""

from __future__ import annotations

from msngan.leaderboard import Block, By


def labels(metrics: list[str]) -> list[str]:
    """A metric's family where it is enough to tell it from the others, else its whole name."""
    families = [name.partition("/")[0] for name in metrics]
    return [
        family if families.count(family) == 1 else name
        for name, family in zip(metrics, families, strict=True)
    ]


def in_words(differences: dict[str, tuple[str, str]], most: int = 8) -> str:
    """'model.norm ("batch", "spectral"), steps (100, 200)', the first few of them."""
    words = [f"{name} ({one}, {other})" for name, (one, other) in differences.items()]
    more = len(words) - most
    return ", ".join([*words[:most], *([f"{more} more"] if more > 0 else [])])


def describe(block: Block) -> list[str]:
    """What the block's numbers mean, as the protocol has it."""
    protocol = block.protocol
    size, channels = protocol.get("size"), protocol.get("channels")
    parts = [
        f"{protocol['runs']} x {protocol['samples']} samples",
        protocol["extractor"],
        f"reference {protocol.get('split', 'split unknown')},"
        f" {protocol.get('reference_images', 'unknown')} images,"
        f" sha256 {str(protocol.get('reference_sha256', 'unknown'))[:8]}",
        f"{size}x{size}, {channels} channels" if size and channels else "resolution unknown",
    ]
    lines = ["; ".join(parts)]
    if not protocol["official_inception"]:
        lines.append("embedded extractor: not comparable with published FID")
    return [*lines, *_bias(block)]


def ranking(block: Block, by: By) -> str:
    """The order of the block's rows."""
    if block.better is None:
        return f"not ranked: whether {block.metric} should be high or low is not known"
    return f"ranked by {block.metric} at the {by} step; {block.better} is better"


def _bias(block: Block) -> list[str]:
    """A warning where the covariance of a run's features cannot have full rank."""
    samples, features = block.protocol["samples"], block.dimensions
    frechet = any(name.partition("/")[0] in ("fid", "fd") for name in block.metrics)
    if not frechet or features is None or samples >= features:
        return []
    return [
        f"{samples:,} samples < {features:,} features: the covariance is rank-deficient and the"
        " Fréchet distance's bias is large; read it beside the floor, never beside another protocol"
    ]
