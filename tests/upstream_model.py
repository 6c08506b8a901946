"""An upstream that changes between its responses, and that lists its rows in every way.

Boxes stand in groups, items in boxes and loose in groups: an item can be reached through several
collections and be in several at once.  Every collection is listed in full, newest or oldest first
since a time, or by a token; a feed may tell what becomes of boxes and items.  Pages are short, and
continue behind a key, or at an offset, with a total or without.  Nicks, and what comes with them, are
listed too, or are requested by the ids of their rows, one by one or in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from max.errors import SyncTokenRefused, UpstreamMissing
from max.model.entities import Entity, Field, FieldOf, Many, ManyOf, Ref
from max.model.loaders import STATIC, Loader, PageRequest, Watermark
from max.model.plan import Step, SyncPlan
from max.model.query import Batch, Page
from max.model.schema import Schema

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
PAGE = 2  # items on one
KINDS = ("full", "newest", "oldest", "token", "offset", "counted")
WHOLE = ("full", "offset", "counted")  # the kinds that list everything each time
NICKS = ("listed", "one", "batch", "moved", "static")  # how nicks are loaded: "moved" when the row has


class Keeper(Entity):
    """Someone whom items name, and of whom nothing is known."""


class Tag(Entity):
    """A tag of items, which name it themselves."""

    title: Field[str] = Field()
    nick: Field[str] = Field()


class Item(Entity):
    """An item in a box, or a loose one."""

    title: Field[str] = Field()
    box: Field[Ref[Box] | None] = Field()
    tags: Many[Tag] = Many(inline="tags")
    changed: Field[datetime] = Field()
    nick: Field[str] = Field()
    keeper: Field[Ref[Keeper] | None] = Field()
    favourite: Field[Ref[Tag] | None] = Field()


class Box(Entity):
    """A box in a group."""

    title: Field[str] = Field()
    group: Field[Ref[Group]] = Field()
    changed: Field[datetime] = Field()
    nick: Field[str] = Field()
    items: Many[Item] = Many(by=lambda: Item.box)


class Group(Entity):
    """A group of boxes and loose items."""

    title: Field[str] = Field()
    changed: Field[datetime] = Field()
    nick: Field[str] = Field()
    boxes: Many[Box] = Many(by=lambda: Box.group)
    loose: Many[Item] = Many()


class Root(Entity):
    """The root."""

    groups: Many[Group] = Many()


SCHEMA = Schema([Root, Group, Box, Item, Tag, Keeper], roots=[Root])
NICKED: Sequence[type[Entity]] = (Group, Box, Item, Tag)  # the entities that have nicks
ROOT = Ref(Root, "r")
COLLECTIONS: Sequence[ManyOf[Any, Any]] = (Root.groups, Group.boxes, Group.loose, Box.items)
TAGS = repr(Item.tags)
State = tuple[Mapping[str, set[Any]], Mapping[str, set[str]]]  # rows by entity, members by collection


@dataclass
class Thing:
    """A row upstream: where it is, and when it last changed, as a growing number."""

    kind: type[Entity]
    id: str
    title: str
    places: set[tuple[str, str]]  # collections, with the id of the parent
    nick: str = ""
    changed: int = 0
    tags: Callable[[str], list[Entity]] = lambda item: []
    besides: Callable[[Thing], dict[str, Any]] = lambda thing: {}

    def parent(self, many: ManyOf[Any, Any]) -> str | None:
        """The one parent in a collection that it refers to."""
        return next((id for name, id in self.places if name == repr(many)), None)

    def entity(self, besides: Mapping[str, Any] | None = None) -> Entity:
        """As it is listed, or with these fields besides."""
        values = {"title": self.title, **(self.besides(self) if besides is None else besides)}
        if self.kind is Tag:
            return Tag(self.id, **values)
        values["changed"] = EPOCH + timedelta(seconds=self.changed)
        if self.kind is Item:
            values["tags"] = self.tags(self.id)
            box = self.parent(Box.items)
            values["box"] = None if box is None else Ref(Box, box)
        if self.kind is Box:
            values["group"] = Ref(Group, self.parent(Group.boxes) or "")
        return self.kind(self.id, **values)


@dataclass
class Upstream:
    """All rows, existing and deleted."""

    kinds: Mapping[str, str]  # how each collection is listed
    feed: bool
    things: dict[str, Thing] = field(default_factory=dict)
    gone: dict[str, tuple[type[Entity], int]] = field(default_factory=dict)  # when, by id
    clock: int = 0
    life: int = 0  # sync tokens of an earlier one are refused
    polite: bool = True  # a refused token is an error; else the page says that it is full
    narrow: bool = False  # the listings of loose items do not say in which box an item is
    watched: bool = False  # a parent changes with what is in it, and its collections are listed then alone
    nicks: Mapping[type[Entity], str] = field(default_factory=dict)  # how they are loaded; else listed
    account: int = 0
    moved: set[str] = field(default_factory=set)  # the rows that moved since the sync began
    steady: set[str] = field(default_factory=set)  # the rows that existed all the time since the sync began

    # -- what happens upstream -----------------------------------------------------------------

    def begin(self) -> None:
        """A sync begins now."""
        self.moved, self.steady = set(), set(self.things)

    def create(self, kind: type[Entity], id: str, *places: tuple[str, str]) -> None:
        """Create a row, or restore a deleted one."""
        self.gone.pop(id, None)
        nick = f"nick {self.clock}"
        self.things[id] = Thing(kind, id, "new", set(places), nick, tags=self.tags, besides=self._besides)
        self.moved.add(id)
        self.touch(id)

    def _touch_parents(self, places: set[tuple[str, str]]) -> None:
        """What is in these places has changed, come or gone; an item has changed with its tags."""
        for name, parent in sorted(places):
            if (self.watched or name == TAGS) and parent in self.things:
                self.touch(parent)

    def tags(self, item: str) -> list[Entity]:
        """The tags of an item, by their ids."""
        found = [thing for thing in self.things.values() if (TAGS, item) in thing.places]
        return [thing.entity() for thing in sorted(found, key=lambda thing: thing.id)]

    def touch(self, id: str, title: str | None = None) -> None:
        """Change a row."""
        self.clock += 1
        self.things[id].changed = self.clock
        self.things[id].title = title or self.things[id].title
        self._touch_parents(self.things[id].places)

    def rename(self, id: str, nick: str) -> None:
        """Change a row's nick; the row changes with it where listings have to show that."""
        thing = self.things[id]
        thing.nick = nick
        if self.way(thing.kind) in ("listed", "moved"):
            self.touch(id)

    def spoil(self, id: str) -> None:
        """Give a row a title that is no text."""
        self.things[id].title = cast("str", 5)
        self.touch(id)

    def heal(self) -> None:
        """Every title is a text."""
        for id in [id for id, thing in self.things.items() if not isinstance(thing.title, str)]:
            self.touch(id, "healed")

    def put(self, id: str, places: set[tuple[str, str]]) -> None:
        """Move a row, at most once in a sync.

        What moves there and back, or twice, while a sync looks for it may be where it just was
        not looked for: no listing can tell, and this is the one thing that is left out here.
        """
        if id not in self.moved and places != self.things[id].places:
            self.moved.add(id)
            left, self.things[id].places = self.things[id].places - places, places
            self.touch(id)
            self._touch_parents(left)

    def delete(self, id: str) -> None:
        """Delete a row, and the rows that only it held."""
        thing = self.things.pop(id)
        self.clock += 1
        self.gone[id] = (thing.kind, self.clock)
        self.steady.discard(id)
        self._touch_parents(thing.places)
        inside = {repr(ManyOf(thing.kind, name)) for name in thing.kind.children()}
        for other in list(self.things.values()):
            left = {place for place in other.places if place[0] not in inside or place[1] != id}
            if other.id in self.things and left != other.places:
                other.places = left
                self.moved.add(other.id)
                if left:
                    self.touch(other.id)
                else:
                    self.delete(other.id)

    def replace(self, number: int) -> None:
        """Be another account, some of whose rows have the ids of this one's."""
        self.things, self.gone, self.clock, self.life = {}, {}, 0, self.life + 1_000
        self.account += 1
        self.steady = set()
        for group in range(1 + number % 3):
            self.create(Group, f"g{group}", ("Root.groups", ROOT.id))
            self.create(Item, f"i{group + number % 2}", ("Group.loose", f"g{group}"))
        for thing in self.things.values():
            thing.title = "other"

    def of(self, kind: type[Entity]) -> list[str]:
        """The ids of the existing rows of a kind."""
        return sorted(id for id, thing in self.things.items() if thing.kind is kind)

    def state(self) -> State:
        """What a copy must hold."""
        rows: dict[str, set[Any]] = {kind.__name__: set() for kind in (*NICKED, Keeper)}
        members: dict[str, set[str]] = {repr(many): set() for many in (*COLLECTIONS, Item.tags)}
        for thing in self.things.values():
            rows[thing.kind.__name__].add(signature(thing.entity(self.nick(thing))))
            for name, parent in thing.places:
                members[name].add(f"{parent}/{thing.id}")
        return rows, members

    def way(self, kind: type[Entity]) -> str:
        """How the nicks of a kind are loaded."""
        return self.nicks.get(kind, "listed")

    def apart(self) -> list[type[Entity]]:
        """The kinds whose nicks have a loader of their own."""
        return [kind for kind in NICKED if self.way(kind) != "listed"]

    def _besides(self, thing: Thing) -> dict[str, Any]:
        return self.nick(thing) if self.way(thing.kind) == "listed" else {}

    def nick(self, thing: Thing) -> dict[str, Any]:
        """The nick of a row, and what comes with it."""
        is_static = self.way(thing.kind) == "static"
        nick = f"{thing.id} of {self.account}" if is_static else thing.nick
        if thing.kind is not Item:
            return {"nick": nick}
        first = None if is_static else next(iter(self.tags(thing.id)), None)
        keeper = Ref(Keeper, nick) if len(nick) % 2 else None
        return {"nick": nick, "keeper": keeper, "favourite": None if first is None else Tag.ref(first.id)}

    def in_full(self) -> list[ManyOf[Any, Any]]:
        """The collections of which every sync lists everything, and that for every parent there is."""
        found: list[ManyOf[Any, Any]] = []
        for many in COLLECTIONS:  # parents first
            parents = [one for one in COLLECTIONS if one.child is many.parent]
            in_feed = self.feed and many in COVERED
            if self.kinds[repr(many)] in WHOLE and not in_feed and all(one in found for one in parents):
                found.append(many)
        return found

    # -- how it answers ------------------------------------------------------------------------

    def page(self, many: ManyOf[Any, Any], parent: Ref[Any], request: PageRequest) -> Page[Any]:
        """A page of a collection, with the fields that its listing brings."""
        page = self._listed(many, parent, request)
        silent = {field.name for field in FIELDS[many.child]} - {field.name for field in self.brings(many)}
        items = [
            type(one)(**{name: value for name, value in one._values.items() if name not in silent})
            for one in page.items
        ]
        return page.replace(items=items)

    def answer(self, kind: type[Entity], ids: Sequence[str]) -> Page[Entity]:
        """The nicks of the rows with some ids; of those that are gone, some are left out."""
        known = [self.things[id] for id in ids if id in self.things]
        gone = {id: UpstreamMissing(f"{id} is gone") for id in ids if id not in self.things}
        failed = {id: error for id, error in gone.items() if len(ids) == 1 or self.clock % 2}
        return Page([kind(thing.id, **self.nick(thing)) for thing in known], failed=failed)

    def brings(self, many: ManyOf[Any, Any]) -> Sequence[Any]:
        """The fields that the listings of a collection bring."""
        silent = Item.box if self.narrow and many == Group.loose else None
        return [field for field in self.fields(many.child) if field != silent]

    def fields(self, kind: type[Entity]) -> list[Any]:
        """The fields of a kind that are listed."""
        return [*FIELDS[kind], *(nick_fields(kind) if self.way(kind) == "listed" else [])]

    def _listed(self, many: ManyOf[Any, Any], parent: Ref[Any], request: PageRequest) -> Page[Any]:
        """A page in the collection's way of listing."""
        if parent.entity is not Root and parent.id not in self.things:
            raise UpstreamMissing(f"{parent} is gone")
        members = [thing for thing in self.things.values() if (repr(many), parent.id) in thing.places]
        kind = self.kinds[repr(many)]
        if kind == "token":
            return self._since_token(many, members, request)
        if kind == "full":
            return _next_page(members, request, lambda thing: thing.id)
        if kind in ("offset", "counted"):
            page = _page_at(members, request)
            return page.replace(total=len(members)) if kind == "counted" else page
        if request.since is not None:
            since = int((request.since - EPOCH).total_seconds())
            members = [thing for thing in members if thing.changed >= since]
        sign = -1 if kind == "newest" else 1
        return _next_page(members, request, lambda thing: f"{10**9 + sign * thing.changed}")

    def _since_token(self, many: ManyOf[Any, Any], members: list[Thing], request: PageRequest) -> Page[Any]:
        """All by their ids, or what has changed in the order of that, with what is gone at the end.

        A cursor has the start of the changes, the start of the listing and the position.
        """
        since, start, full = self._position(request)
        key = None if request.cursor is None else request.cursor.split(",")[3]
        inner = PageRequest(key or None)
        if since is None:
            page = _next_page(members, inner, lambda thing: thing.id)
        else:
            changed = [thing for thing in members if thing.changed > since]
            page = _next_page(changed, inner, lambda thing: f"{10**9 + thing.changed}")
        if page.next is not None:
            place = f"{self.life},{'' if since is None else since},{start},{page.next}"
            return page.replace(next=place, complete_snapshot=full)
        removed = [] if since is None else self._tombstones({many.child}, since)
        return page.replace(sync_token=f"{self.life},{start}", complete_snapshot=full, removed=removed)

    def _position(self, request: PageRequest) -> tuple[int | None, int, bool]:
        if request.cursor is not None:
            _, since, start, _ = request.cursor.split(",")
            return (int(since) if since else None), int(start), False
        if request.sync_token is None:
            return None, self.clock, False
        life, at = map(int, request.sync_token.split(","))
        if life == self.life:
            return at, self.clock, False
        if self.polite:
            raise SyncTokenRefused("the token is too old")
        return None, self.clock, True

    def changes(self, request: PageRequest) -> Page[Entity]:
        """The changes of boxes and items since a position, as they are now."""
        if request.sync_token is None:
            return Page([], sync_token=f"{self.life},{self.clock}")
        life, at = map(int, (request.cursor or request.sync_token).split(","))
        if life != self.life:
            raise SyncTokenRefused("the position is too old")
        changed = [
            (t.changed, t.id) for t in self.things.values() if t.kind in (Box, Item) and t.changed > at
        ]
        gone = [(when, id) for id, (kind, when) in self.gone.items() if kind in (Box, Item) and when > at]
        shown = sorted(changed + gone)[:PAGE]
        items = [self.things[id].entity() for _, id in shown if id in self.things]
        removed = [self.gone[id][0].ref(id) for _, id in shown if id not in self.things]
        place = f"{self.life},{shown[-1][0] if shown else self.clock}"
        more = len(changed) + len(gone) > PAGE
        return Page(items, place if more else None, removed=removed, sync_token=None if more else place)

    def _tombstones(self, kinds: set[type[Entity]], since: int) -> list[Ref[Any]]:
        return [kind.ref(id) for id, (kind, when) in self.gone.items() if kind in kinds and when > since]


def signature(entity: Entity) -> str:
    """All fields of a row; a box that no listing named is no box."""
    unnamed: dict[str, Any] = {"box": None} if isinstance(entity, Item) else {}
    values = (
        unnamed
        | entity._values
        | ({"tags": entity.tags} if isinstance(entity, Item) and "tags" in entity._values else {})
    )
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items()))


def _next_page(things: list[Thing], request: PageRequest, key: Callable[[Thing], str]) -> Page[Any]:
    """The next few after a key."""
    left = sorted((thing for thing in things if key(thing) > (request.cursor or "")), key=key)
    shown = left[:PAGE]
    following = key(shown[-1]) if len(left) > PAGE else None
    if request.ids_only:
        return Page([thing.kind(thing.id) for thing in shown], following)
    return Page([thing.entity() for thing in shown], following)


def _page_at(things: list[Thing], request: PageRequest) -> Page[Any]:
    """The next few from an offset, in the order of their ids: what is deleted moves all others up."""
    start = int(request.cursor or 0)
    shown = sorted(things, key=lambda thing: thing.id)[start : start + PAGE]
    following = str(start + PAGE) if start + PAGE < len(things) else None
    return Page([thing.kind(thing.id) if request.ids_only else thing.entity() for thing in shown], following)


# -- the connector -------------------------------------------------------------------------------

FIELDS: Mapping[type[Entity], Sequence[Any]] = {
    Group: [Group.title, Group.changed],
    Box: [Box.title, Box.group, Box.changed],
    Item: [Item.title, Item.box, Item.tags, Item.changed],
    Tag: [Tag.title],
}
SWEEP = timedelta(days=3650)
AT_ONCE = 2  # rows whose nicks a batch loads
COVERED: Sequence[ManyOf[Any, Any]] = (Group.boxes, Box.items)  # by the feed


Ask = Callable[[str, str, PageRequest, Callable[[], Page[Any]]], Any]


def loaders(upstream: Upstream, ask: Ask) -> list[Loader[Any]]:
    """The loaders; ``ask`` lets every request take time or fail."""

    def lister(many: ManyOf[Any, Any]) -> Loader[Any]:
        async def list_them(parent: Ref[Any], request: PageRequest, env: Any) -> Page[Any]:
            page: Page[Any] = await ask(
                repr(many), parent.id, request, lambda: upstream.page(many, parent, request)
            )
            return page

        list_them.__name__ = f"list_{many.name}"
        kind, changed = upstream.kinds[repr(many)], FIELDS[many.child][-1]
        watermark = (
            Watermark(changed, newest_first=kind == "newest") if kind in ("newest", "oldest") else None
        )
        sweep = None if kind in ("full", "offset", "counted") else SWEEP
        stable = kind not in ("newest", "offset", "counted")
        brings = [*upstream.brings(many), *(upstream.fields(Tag) if many.child is Item else [])]
        watches = upstream.watched and many.parent is not Root and not (upstream.feed and many in COVERED)
        declare = Loader.collection(
            many,
            brings=brings,
            refresh_when=FIELDS[many.parent][-1] if watches else None,
            watermark=watermark,
            sweep=sweep,
            stable=stable,
        )
        return declare(list_them)

    async def changes(root: Ref[Any], request: PageRequest, env: Any) -> Page[Entity]:
        return await ask("feed", root.id, request, lambda: upstream.changes(request))  # type: ignore[no-any-return]  # a page

    found = [lister(many) for many in COLLECTIONS]
    if upstream.feed:
        brings = [field for kind in (Box, Item, Tag) for field in upstream.fields(kind)]
        found.append(Loader.feed(Root, brings=brings, covers=COVERED)(changes))
    return found + [nick_loader(upstream, ask, kind) for kind in upstream.apart()]


def nick_loader(upstream: Upstream, ask: Ask, kind: type[Entity]) -> Loader[Any]:
    """Loads the nicks of a kind, with what comes with them, by the ids of rows."""

    async def load_some(refs: Sequence[Ref[Any]], env: Any) -> Batch[Any]:
        ids = [ref.id for ref in refs]
        page = await ask(f"{kind.__name__}.nick", ids[0], PageRequest(), lambda: upstream.answer(kind, ids))
        return Batch(page.items, page.failed)

    async def load_one(ref: Ref[Any], env: Any) -> Entity:
        batch = await load_some([ref], env)
        for error in batch.failed.values():
            raise error
        one: Entity = batch.items[0]
        return one

    way, fields = upstream.nicks[kind], nick_fields(kind)
    load_one.__name__ = load_some.__name__ = f"load_nicks_of_{kind.__name__.lower()}"
    ttl = STATIC if way == "static" else None
    if way == "one":
        return Loader.entity(*fields)(load_one)
    when = FIELDS[kind][-1] if way == "moved" and kind is not Tag else None
    return Loader.entity_batched(*fields, size=AT_ONCE, ttl=ttl, refresh_when=when)(load_some)


def nick_fields(kind: type[Entity]) -> list[Any]:
    """The nick of a kind, and what comes with it."""
    return [Item.nick, Item.keeper, Item.favourite] if kind is Item else [FieldOf(kind, "nick")]


def plan(upstream: Upstream) -> SyncPlan:
    """Everything, parents first; boxes and loose items side by side, and the nicks of groups with them."""
    nicks = {kind: Step.for_all(kind).load_fields(*nick_fields(kind)) for kind in upstream.apart()}
    inside = [Step.for_all(Group).load_collection(many) for many in (Group.boxes, Group.loose)]
    inside += [nicks.pop(kind) for kind in (Group,) if kind in nicks]
    follow = [Step.for_root(ROOT).follow("changes")] if upstream.feed else []
    groups = Step.for_root(ROOT).load_collection(Root.groups)
    items = Step.for_all(Box).load_collection(Box.items)
    return SyncPlan([*follow, groups, Step.concurrent(inside), items, *nicks.values()])
