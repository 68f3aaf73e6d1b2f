"""The DIMSE messages of an accepted association: instances go to files, the rest to pynetdicom, nothing without bound.

PS3.8 annex E for the message control header, PS3.7 section 9.1.1 for C-STORE.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from medpipe.identity import resembles_uid
from workers import command_set
from workers.instance_file import InstanceFile
from workers.wire_guard import Limits, WireFault

if TYPE_CHECKING:
    from workers.reactor import AcceptedAssociation

_COMMAND, _LAST = 1, 2


@dataclass
class StoreRequest:
    """A C-STORE request. `file` is None where it has no data set, or names no instance that we could keep.

    `agreed_class` is the SOP class that its presentation context was agreed for.
    """

    context_id: int
    agreed_class: str
    elements: dict[int, bytes]
    transfer_syntax: str
    sop_class: str = field(init=False)
    sop_instance: str = field(init=False)
    file: InstanceFile | None = None

    def __post_init__(self) -> None:
        self.sop_class = command_set.text(self.elements, command_set.AFFECTED_SOP_CLASS_UID)
        self.sop_instance = command_set.text(self.elements, command_set.AFFECTED_SOP_INSTANCE_UID)

    @property
    def names_an_instance(self) -> bool:
        return resembles_uid(self.sop_class) and resembles_uid(self.sop_instance)


class _Patience:
    """How long a peer keeps us waiting for the rest of a message, against the bytes of it that have come.

    A PDU of one byte within its deadline, and then another one, would hold an association for ever. Only waiting
    counts: that our disk is slow is not the peer's fault.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waited = 0.0
        self._bytes = 0
        self._since: float | None = None
        """When we began to wait; None where we do not wait for the rest of a message."""

    def begin(self) -> None:
        """A message begins."""
        self._waited, self._bytes, self._since = 0.0, 0, None

    def came(self, count: int) -> None:
        """Bytes have come. Raises WireFault where they were too few for the time that they took."""
        self._bytes += count
        if self._since is not None:
            self._waited += time.monotonic() - self._since
            if self._waited > self._limits.silence + self._bytes / self._limits.least_rate:
                raise WireFault("a message came more slowly than listener.least_rate")

    def wait(self, *, amid: bool) -> None:
        """We wait for the peer, in the midst of a message or between two."""
        self._since = time.monotonic() if amid else None


class Dimse(DIMSEServiceProvider):
    """Takes the presentation data values in the order in which they come."""

    def __init__(self, association: AcceptedAssociation, incoming: Path) -> None:
        super().__init__(association)
        self._association = association
        self._incoming = incoming
        self._limits = association.limits
        self._command = bytearray()
        self._context_id = 0
        self._store: StoreRequest | None = None
        self._others_data: int | None = None
        """Bytes of the data set of another message, while that comes in."""
        self._patience = _Patience(association.limits)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Raises WireFault for what is out of order, too large or too slow, OSError where the disk does not take it."""
        self._patience.came(sum(len(value) for _, value in primitive.presentation_data_value_list))
        for context_id, value in primitive.presentation_data_value_list:
            header, part = value[0], memoryview(value)[1:]
            if header & _COMMAND:
                self._take_command(context_id, part, last=bool(header & _LAST))
            else:
                self._take_data(context_id, part, last=bool(header & _LAST))
        self._patience.wait(
            amid=bool(self._command) or self._store is not None or self._others_data is not None
        )

    def _take_command(self, context_id: int, part: memoryview, *, last: bool) -> None:
        if self._store is not None or self._others_data is not None:
            raise WireFault("a command came in the middle of a data set")
        if self._command and context_id != self._context_id:
            raise WireFault("a command set came in two presentation contexts")
        if not self._command:
            self._patience.begin()
        self._context_id = context_id
        self._command += part
        if len(self._command) > self._limits.command:
            raise WireFault(f"a command set is larger than {self._limits.command} bytes")
        if not last:
            return
        encoded, self._command = bytes(self._command), bytearray()
        try:
            elements = command_set.parse(encoded)
        except ValueError as error:
            raise WireFault(str(error)) from error
        has_data = command_set.number(elements, command_set.COMMAND_DATA_SET_TYPE) != command_set.NO_DATA_SET
        if command_set.number(elements, command_set.COMMAND_FIELD) == command_set.C_STORE_RQ:
            self._begin_store(elements, has_data)
        else:
            self._hand_on(context_id, b"\x03" + encoded)
            self._others_data = 0 if has_data else None

    def _begin_store(self, elements: dict[int, bytes], has_data: bool) -> None:
        context = self._association._accepted_cx.get(self._context_id)
        if context is None:
            raise WireFault("a C-STORE request came in a presentation context that was not accepted")
        if command_set.number(elements, command_set.MESSAGE_ID) is None:
            raise WireFault("a C-STORE request has no message id")
        request = StoreRequest(
            self._context_id, str(context.abstract_syntax), elements, str(context.transfer_syntax[0])
        )
        if not has_data:
            self._association.store(request)
            return
        if request.names_an_instance:
            request.file = InstanceFile(
                self._incoming, request.sop_class, request.sop_instance, request.transfer_syntax
            )
        self._store = request

    def _take_data(self, context_id: int, part: memoryview, *, last: bool) -> None:
        if context_id != self._context_id:
            raise WireFault("a data set came in another presentation context than its command")
        if self._store is not None:
            self._take_instance(self._store, part, last=last)
        elif self._others_data is not None:
            self._others_data += len(part)
            if self._others_data > self._limits.report:
                raise WireFault(f"a data set that is no instance is larger than {self._limits.report} bytes")
            self._hand_on(context_id, (b"\x02" if last else b"\x00") + bytes(part))
            self._others_data = None if last else self._others_data
        else:
            raise WireFault("a data set came without a command")

    def _take_instance(self, request: StoreRequest, part: memoryview, *, last: bool) -> None:
        if request.file is not None:
            request.file.write(part)
            if request.file.size > self._limits.instance:
                raise WireFault("an instance is larger than listener.maximum_instance")
        if last:
            self._store = None
            try:
                self._association.store(request)
            finally:
                if request.file is not None:
                    request.file.drop()

    def _hand_on(self, context_id: int, value: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, value))
        super().receive_primitive(primitive)

    def drop_unfinished(self) -> None:
        """What was being received is the peer's still."""
        if self._store is not None and self._store.file is not None:
            self._store.file.drop()
