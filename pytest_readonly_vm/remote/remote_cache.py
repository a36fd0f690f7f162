"""Owns the way of parcels to a place and from it: what is sent, what is trusted, what is compared.

A push puts blobs there first, and the name last; a kill leaves blobs, which the next push does not send again. A fetch
believes nothing but the manifest's digest, and that only from whom it trusts.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_readonly_vm.errors import ConfigurationError, HostError, NotTrusted, RemoteError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.remote import signature, wire
from pytest_readonly_vm.remote.assembly import Assembly
from pytest_readonly_vm.remote.at_once import Stores, at_once
from pytest_readonly_vm.remote.packing import digest_of, packed, unpacked
from pytest_readonly_vm.remote.parcel import MOST_FILES, Manifest, Pack, Parcel, Sent, is_file_name, is_key
from pytest_readonly_vm.remote.splitting import Known, Split
from pytest_readonly_vm.remote.store import Head, Pruned, Store

Progress = Callable[[str, int, int | None], object]
"""Told what is transferred, how many bytes have gone, and how many there are if that is known."""

_LARGEST = 64 << 30


def silent(what: str, done: int, of: int | None) -> None:
    """A `Progress` that tells nobody."""


class RemoteCache:
    """A place for parcels. Its methods block; any thread may call them; what stalls ends with an error.

    A context manager.
    """

    def __init__(self, new_store: Callable[[], Store], *, signers: Path | None, unsigned: bool) -> None:
        """See `open_remote`."""
        self._new_store = new_store
        self._stores = Stores(new_store)
        self._stores.here()  # which says at once what is wrong
        self._signers = signers
        self._unsigned = unsigned

    def __enter__(self) -> "RemoteCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._stores.close()

    @property
    def _store(self) -> Store:
        return self._stores.here()

    @property
    def name(self) -> str:
        """For people, without a password."""
        return self._store.name

    def keys(self) -> list[str]:
        """Those of all parcels there, in order; nobody has looked at them.

        :raises RemoteError: the place cannot be listed.
        """
        return sorted(self._store.keys())

    def find(self, key: str) -> Manifest | None:
        """What lies under a key, read and found to be trusted; None if nothing does.

        :raises NotTrusted: nobody whom this user trusts has signed it.
        :raises RemoteError: it cannot be had, or is damaged.
        """
        head = self._store.head(key)
        if head is None:
            return None
        self._require_trust(key, head)
        return self._manifest(key, head)

    def fetch(
        self,
        manifest: Manifest,
        folder: Path,
        *,
        progress: Progress = silent,
        near: Sequence[Path] = (),
        limit: int = _LARGEST,
    ) -> None:
        """Write a parcel's files into a folder, with mode 0400, holes as holes, all of it or nothing.

        What a killed process has left there of the same parcel is gone on with.

        :param near: folders with files of frozen guests, from which blocks are copied instead of fetched.
        :param limit: bytes that it may take.
        :raises RemoteError: a part is missing or damaged, or the place does not send it.
        :raises HostError: the folder cannot take it.
        """
        if manifest.data > limit:
            raise RemoteError(
                f"the frozen guest {manifest.key[:12]} has {manifest.data >> 20} MiB; the limit is {limit >> 20} MiB"
            )
        with Assembly(manifest, folder) as assembly:
            assembly.take_left()
            assembly.take_from(near)
            wanted = [number for number in range(len(manifest.packs)) if assembly.lacks(number)]
            whole, done, what = sum(manifest.packs[one].size for one in wanted), 0, f"fetching from {self.name}"
            progress(what, 0, whole)

            def take(store: Store, number: int) -> int:
                pack = manifest.packs[number]
                assembly.take(number, unpacked(_blob(store, pack), pack.unpacked, f"{store.name}: {pack.digest}"))
                return pack.size

            jobs = (lambda store, number=number: take(store, number) for number in wanted)
            for size in at_once(self._new_store, jobs):
                done += size
                progress(what, done, whole)
            assembly.finish()

    def push(self, parcel: Parcel, *, sign_with: Path | None = None, progress: Progress = silent) -> Sent:
        """Have a parcel there. If one of its key is there, whole and trusted, nothing is sent.

        :param sign_with: a private key of OpenSSH's, or a public one whose private half ssh-agent has.
        :raises RemoteError: the place does not take it; nobody sees anything of it.
        :raises ConfigurationError: it cannot be signed with that key.
        :raises HostError: its files cannot be read.
        """
        _require_sane(parcel)
        there = self._trusted(parcel.key, sign_with)
        if there is not None and all(self._are_there(there.packs)):
            self._store.renew(parcel.key)
            return Sent(0, there.size)
        known = Known()
        for below in parcel.below:
            if below != parcel.key and (manifest := self._trusted(below, sign_with)) is not None:
                are_there = dict(zip(manifest.packs, self._are_there(manifest.packs), strict=True))
                known.add(manifest, lambda pack, are_there=are_there: are_there[pack])  # type: ignore[misc]
        try:
            return self._send(parcel, Split(parcel.files, known), sign_with, progress)
        except OSError as error:
            raise HostError(f"the files of a frozen guest cannot be read: {explain(error)}") from None

    def prune(self, age: float) -> Pruned:
        """Let go of all parcels that nobody has pushed for so many seconds, and free what no other needs, a day later.

        Parcels that are there stay whole, whatever else is pushed, fetched or killed at this moment.

        :raises RemoteError: it is not for us to remove anything there, or something cannot be read or removed.
        """
        return self._store.prune(age)

    def _send(self, parcel: Parcel, split: Split, sign_with: Path | None, progress: Progress) -> Sent:
        packs, sent, there = [], 0, 0
        what = f"pushing to {self.name}"
        progress(what, 0, None)
        jobs = (lambda store, data=data: _put(store, data) for data in split.packs())
        for pack, was_there in at_once(self._new_store, jobs):
            packs.append(pack)
            sent, there = sent + (0 if was_there else pack.size), there + (pack.size if was_there else 0)
            progress(what, sent, None)
        there += sum(pack.size for pack in split.old)
        manifest, table = wire.written(
            parcel.key, parcel.description, parcel.facts, [*packs, *split.old], split.files()
        )
        self._store.put(digest_of(table), table)
        signed = signature.sign(parcel.key, digest_of(manifest), sign_with) if sign_with else None
        self._store.publish(parcel.key, Head(manifest, signed))
        return Sent(sent + len(table) + len(manifest), there)

    def _are_there(self, packs: Sequence[Pack]) -> Iterator[bool]:
        jobs = (lambda store, pack=pack: store.has(pack.digest, pack.size) for pack in packs)
        return at_once(self._new_store, jobs)

    def _trusted(self, key: str, sign_with: Path | None) -> Manifest | None:
        """What lies there, if it can be built upon: who signs says that all of it is good."""
        try:
            head = self._store.head(key)
            if head is None:
                return None
            if sign_with is None:
                self._require_trust(key, head)
            elif not self._is_signed(key, head, sign_with):
                return None
            return self._manifest(key, head)
        except RemoteError:  # then it is sent anew, and a place that does not answer will say so again
            return None

    def _is_signed(self, key: str, head: Head, sign_with: Path) -> bool:
        if head.signature is None:
            return False
        digest = digest_of(head.manifest)
        with signature.signers_of(sign_with) as own:
            files = (own, *([self._signers] if self._signers else []))
            return any(signature.distrust(key, digest, head.signature, file) is None for file in files)

    def _require_trust(self, key: str, head: Head) -> None:
        if self._unsigned or self._store.is_own:
            return
        what = f"{self.name} has the frozen guest {key[:12]}, which is not used"
        advice = "--vm-cache-signers=FILE names those whom you trust; --vm-cache-unsigned takes all that lies there"
        if head.signature is None:
            reason = f", and {self._store.distrust}" if self._store.distrust else ""
            raise NotTrusted(f"{what}: it is not signed{reason}; {advice}")
        if self._signers is None:
            raise NotTrusted(f"{what}: it is signed, and nobody has said whose signature counts; {advice}")
        reason = signature.distrust(key, digest_of(head.manifest), head.signature, self._signers) or ""
        if reason:
            raise NotTrusted(f"{what}: {reason}; {advice}")

    def _manifest(self, key: str, head: Head) -> Manifest:
        what = f"{self.name}: the frozen guest {key[:12]}"
        outline = wire.outline(head.manifest, key, what)
        return wire.read(outline, _blob(self._store, outline.table), what)


def _put(store: Store, data: bytes) -> tuple[Pack, bool]:
    """The pack, and whether it was there."""
    blob = packed(data)
    pack = Pack(digest_of(blob), len(blob), len(data))
    return pack, not store.put(pack.digest, blob)


def _blob(store: Store, pack: Pack) -> bytes:
    blob = store.get(pack.digest, pack.size)
    if len(blob) != pack.size or digest_of(blob) != pack.digest:
        raise RemoteError(f"{store.name}: {pack.digest} is damaged: it is another than its digest says")
    return blob


def _require_sane(parcel: Parcel) -> None:
    """:raises ConfigurationError: no computer would take it."""
    wrong = [name for name in parcel.files if not is_file_name(name)]
    if not is_key(parcel.key) or wrong or not 0 < len(parcel.files) <= MOST_FILES:
        reason = f"a file of it is called {wrong[0][:100]!r}" if wrong else "its key is none, or it has no files"
        raise ConfigurationError(f"the frozen guest {parcel.key[:12]} cannot travel: {reason}")
