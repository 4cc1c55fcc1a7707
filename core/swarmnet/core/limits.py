"""The numbers of swarmnet, in one place: what the formats give room for, and what operators can count on.

Units stand last in each name. A limit that is reached raises ResourceExhausted and changes nothing.
"""

from __future__ import annotations

from typing import Final

# Formats (DESIGN: SPI = network index, node index, epoch; RFC 7348 for the VNI; RFC 4303 and 4106 for ESP).
NETWORK_INDEX_BITS: Final = 12
NODE_INDEX_BITS: Final = 16
EPOCH_BITS: Final = 4
MAX_NETWORKS: Final = (1 << NETWORK_INDEX_BITS) - 1
"""Index 0 is never given out: SPIs below 256 are reserved (RFC 4303, section 2.1)."""
MAX_NODES: Final = (1 << NODE_INDEX_BITS) - 1
FIRST_VNI: Final = 4096
EPOCH_SECRET_BYTES: Final = 32
ESP_KEY_BYTES: Final = 32
ESP_SALT_BYTES: Final = 4
ESP_ICV_BITS: Final = 128
ESP_REPLAY_WINDOW_PACKETS: Final = 1024
ESP_SOFT_LIMIT_PACKETS: Final = 1 << 32
ESP_SOFT_LIMIT_BYTES: Final = 1 << 40

# Ports.
MANAGER_PORT: Final = 2377
BOOTSTRAP_PORT: Final = 2378
RAFT_PORT: Final = 2374
METRICS_PORT: Final = 9477
"""A manager's, on its host's loopback."""
GOSSIP_PORT: Final = 7946
PLAIN_VXLAN_PORT: Final = 4789
ESP_IN_UDP_PORT: Final = 4500
"""RFC 3948; for ESP where the network between the hosts passes nothing but UDP."""
ENCRYPTED_PORT_FIRST: Final = 20000
ENCRYPTED_PORT_LAST: Final = 24095
"""One UDP port per encrypted network: exactly as many as network indices; it never shows on the wire."""

# Key epochs.
MAX_LIVE_EPOCHS: Final = 3
KEY_ROTATION_PERIOD_S: Final = 12 * 3600
MIN_KEY_ROTATION_PERIOD_S: Final = 60
MAX_KEY_ROTATION_PERIOD_S: Final = 30 * 24 * 3600
EPOCHS_SKIPPED: Final = 1 << 20
"""By a swarm that goes on from an older state: two years of rotations at the shortest period."""
RETIRE_GRACE_S: Final = 10
"""How long an epoch is still received after the last node stopped sending with it."""
MIN_RETIRE_GRACE_S: Final = 1
MAX_RETIRE_GRACE_S: Final = 3600
HURRIED_GRACE_S: Final = 2
"""When another rotation waits already, as after a node's removal: packets are not under way that long."""
ROTATION_DEADLINE_S: Final = 300
MIN_ROTATION_DEADLINE_S: Final = 10
MAX_ROTATION_DEADLINE_S: Final = 3600

# Certificates.
CERTIFICATE_LIFETIME_S: Final = 90 * 24 * 3600
MIN_CERTIFICATE_LIFETIME_S: Final = 3600
MAX_CERTIFICATE_LIFETIME_S: Final = 10 * 365 * 24 * 3600
ROOT_LIFETIME_S: Final = 20 * 365 * 24 * 3600
MIN_ROOT_LIFETIME_S: Final = 365 * 24 * 3600
"""What a root that an operator brings along must have left."""
RENEW_BETWEEN: Final = (0.5, 0.8)
CLOCK_SKEW_S: Final = 3600
"""A certificate is valid so long before it was issued, for hosts whose clocks are behind."""

# Managers and workers.
HEARTBEAT_PERIOD_S: Final = 5.0
MIN_HEARTBEAT_PERIOD_S: Final = 1
MAX_HEARTBEAT_PERIOD_S: Final = 60
HEARTBEATS_MISSED_DOWN: Final = 3
MAX_COMMAND_BYTES: Final = 512 * 1024
"""One Raft entry; a larger change is refused before it is proposed."""
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
PIPELINE_CALLS: Final = 1024
"""Calls of one stream that a manager works on at once; it reads no further meanwhile."""
PIPELINE_CALL_BYTES: Final = MAX_MESSAGE_BYTES - 4096
"""A request or an answer in a pipeline: with what is around it, it fits into one message."""
PIPELINE_SHARED_BYTES: Final = 256 * 1024
"""What calls or answers share a message up to: a larger one would keep the others waiting."""
MAX_CONFIG_BYTES: Final = 500 * 1024
"""Data of one config, as docker has it; leaves room for its name and labels in one command."""
MIN_TASK_MTU: Final = 576
"""The smallest MTU that IPv4 hosts must accept whole (RFC 791)."""
MIN_TASK_MTU_V6: Final = 1280
"""Of IPv6 links (RFC 8200, section 5)."""
MAX_TASK_MTU: Final = 65_000
MAX_QUESTIONS: Final = 8
"""That a worker looks up at a time; also how many operators may ask of one worker."""
QUESTION_TIMEOUT_S: Final = 8.0
MAX_NAME_LENGTH: Final = 63
MAX_REPLICAS: Final = 10_000
TASK_HISTORY: Final = 5
RESTART_DELAY_S: Final = 5.0
STOP_GRACE_PERIOD_S: Final = 10.0
ADDRESS_POOL: Final = "10.0.0.0/8"
SUBNET_PREFIX_LENGTH: Final = 24

# Events: the oldest of a sort go first. A rotation of 1,000 scopes takes about 300 kB.
KEPT_KEY_EVENTS: Final = 10_000
KEPT_REFUSALS: Final = 1_000
KEPT_NOTICES: Final = 1_000
KEPT_OTHER_EVENTS: Final = 5_000
KEPT_EVENT_BYTES: Final = 8 * 1024 * 1024
"""Of each sort."""
