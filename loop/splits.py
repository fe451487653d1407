"""On which side of the split a record falls, decided once, when it arrives. Pure.

A record without a near-duplicate founds a cluster. The cluster's hash draws it for the exam with the task's
`exam_share` as its known probability; this is the audit draw, random and never repeated. Later near-duplicates
follow their cluster's side and are no draws of their own, so a flood of copies cannot weigh on the estimate.
A record that is near to both sides is kept out of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from store.events import Side


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A record already in that the new one is a near-duplicate of."""

    cluster: str
    side: Side
    position: int  # in the log: the earliest cluster is joined


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    side: Side
    cluster: str
    audit: bool
    audit_probability: float  # that this record had of being drawn; 0 for a follower


def draw(cluster: str, seed: int) -> float:
    """The cluster's number in [0, 1), the same for the same cluster and seed."""
    digest = hashlib.blake2b(f"{seed}\0{cluster}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def place(record_id: str, near: Sequence[Member], *, exam_share: float, seed: int) -> Placement:
    """Side, cluster and audit draw of a new record.

    Args:
        record_id: names the cluster if the record founds one.
        near: every known near-duplicate of it.
        exam_share: the probability of being drawn for the exam, above 0 and below 1.
        seed: the task's.
    """
    if not near:
        drawn = draw(record_id, seed) < exam_share
        return Placement(
            side="exam" if drawn else "train", cluster=record_id, audit=drawn, audit_probability=exam_share
        )
    # copies of a record that was kept out say nothing about the sides themselves
    sided = [member for member in near if member.side != "none"]
    if len({member.side for member in sided}) > 1:
        return Placement(side="none", cluster=record_id, audit=False, audit_probability=0.0)
    first = min(sided or near, key=lambda member: (member.position, member.cluster))
    return Placement(side=first.side, cluster=first.cluster, audit=False, audit_probability=0.0)
