"""The control API, put together from its nouns."""

from __future__ import annotations

from swarmnet.manager.control.backup import BackupNoun
from swarmnet.manager.control.configs import ConfigNoun
from swarmnet.manager.control.encryption import EncryptionNoun
from swarmnet.manager.control.events import EventNoun
from swarmnet.manager.control.keys import KeyNoun
from swarmnet.manager.control.locking import LockNoun
from swarmnet.manager.control.networks import NetworkNoun
from swarmnet.manager.control.nodes import NodeNoun
from swarmnet.manager.control.raft import RaftNoun
from swarmnet.manager.control.roots import RootNoun
from swarmnet.manager.control.services import ServiceNoun
from swarmnet.manager.control.tasks import TaskNoun
from swarmnet.manager.control.watch import WatchNoun


class Control(
    BackupNoun,
    RootNoun,
    NodeNoun,
    NetworkNoun,
    ConfigNoun,
    ServiceNoun,
    TaskNoun,
    KeyNoun,
    EncryptionNoun,
    LockNoun,
    RaftNoun,
    EventNoun,
    WatchNoun,
):
    """Every rpc of `swarmnet.api.v1.Control`; runs on the leading manager, on a current state, but
    for GetRaftStatus, which every manager answers about itself."""
