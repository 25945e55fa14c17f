"""Reads and writes XMP packets (ISO 16684-1): properties in RDF, in XML.

Hostile packets cost little: there are no entities but XML's own, nothing external is read, and
length, depth and the number of elements are limited.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from xml.parsers import expat

# As found, and for the result.
MAX_PACKET_BYTES, MAX_KEPT_BYTES = 1024**2, 512 * 1024
# Elements and attributes for the result; histories of Photoshop, which need not be kept, have more.
MAX_KEPT = 10_000
# More attributes than that in one element are not even looked at: each costs 270 bytes.
LONG_ELEMENT = re.compile(rb"<[^<]{50000,}")
MAX_DEPTH, MAX_NAMESPACES, MAX_NAMESPACE_LENGTH = 64, 256, 256
XML = "http://www.w3.org/XML/1998/namespace"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDF_ROOT = f"{{{RDF}}}RDF"
# In text and attributes; a bare line end would be read as another one.
ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    | {character: f"&#{ord(character)};" for character in "\t\n\r"}
)
# XML has no other control characters, and neither surrogates nor these two.
FORBIDDEN = dict.fromkeys(
    {*range(32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF} - {ord(each) for each in "\t\n\r"}
)
HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""'
)
TAIL = '</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'


class BadPacketError(ValueError):
    """A packet that cannot be read, or not within the limits."""


@dataclass
class Node:
    """An element of a property.

    Attributes
    ----------
    name : `{namespace}name`, as the attributes' names
    text : unless it has children
    """

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Node"] = field(default_factory=list)
    text: str = ""


@dataclass
class Packet:
    """The properties of an XMP packet.

    Attributes
    ----------
    properties : by name, `{namespace}name`
    prefixes : the namespaces' usual prefixes
    """

    properties: dict[str, Node] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)

    def add(self, node: Node, prefix: str) -> None:
        """Add a property, unless it is there already."""
        self.prefixes.setdefault(split_name(node.name)[0], prefix)
        self.properties.setdefault(node.name, node)


def split_name(name: str) -> tuple[str, str]:
    """Return the namespace and the local name of `{namespace}name`."""
    namespace, _, local = name[1:].rpartition("}")
    return namespace, local


class PacketReader:
    """Collects the properties while expat reads a packet.

    expat itself does not resolve namespaces: it would put a long one in front of every name.

    Parameters
    ----------
    is_kept : tells from a property's name whether it is kept; others are skipped
    """

    def __init__(self, is_kept: Callable[[str], bool]) -> None:
        self.packet = Packet()
        self._is_kept = is_kept
        self._scopes: list[dict[str, str]] = [{"xml": XML}]
        # The open elements; None for those around the properties, and those that are skipped.
        self._open: list[Node | None] = []
        self._names: list[str] = []
        self._kept = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if len(self._names) == MAX_DEPTH:
            raise BadPacketError("too deep")
        self._scopes.append(self._declare(attributes))
        name = self._resolve(tag)
        node: Node | None = None
        parent = self._open[-1] if self._open else None
        if parent is not None:
            node = self._make(name, attributes)
            parent.children.append(node)
        elif self._names[-2:-1] == [RDF_ROOT]:
            if self._is_wanted(name):
                node = self.packet.properties[name] = self._make(name, attributes)
        elif self._names[-1:] == [RDF_ROOT]:  # rdf:Description, or a type's name in its place
            for key, text in self._read_attributes(attributes):
                if self._is_wanted(key):
                    self.packet.properties[key] = self._make(key, {}, text)
        self._open.append(node)
        self._names.append(name)

    def end(self, _tag: str) -> None:
        """End an element."""
        self._scopes.pop()
        self._names.pop()
        node = self._open.pop()
        if node is not None and node.children:
            node.text = ""

    def add_text(self, text: str) -> None:
        """Add text to the innermost element."""
        if self._open and self._open[-1] is not None:
            self._open[-1].text += text

    def _is_wanted(self, name: str) -> bool:
        """Tell whether a name is that of a property, and of one that is to be kept."""
        is_property = split_name(name)[0] not in {RDF, XML}  # rdf:about, xml:lang
        return is_property and name not in self.packet.properties and self._is_kept(name)

    def _make(self, name: str, attributes: dict[str, str], text: str = "") -> Node:
        self._kept += 1 + len(attributes)
        if self._kept > MAX_KEPT:
            raise BadPacketError("too many elements")
        return Node(name, dict(self._read_attributes(attributes)), text=text)

    def _declare(self, attributes: dict[str, str]) -> dict[str, str]:
        """Return the prefixes that an element can use, with their namespaces."""
        scope = self._scopes[-1]
        found = {
            name[6:]: text
            for name, text in attributes.items()
            if name == "xmlns" or name.startswith("xmlns:")
        }
        if not found:
            return scope
        scope = scope | found
        if len(scope) > MAX_NAMESPACES or max(map(len, found.values())) > MAX_NAMESPACE_LENGTH:
            raise BadPacketError("too many namespaces")
        for prefix, namespace in found.items():
            self.packet.prefixes.setdefault(namespace, prefix)
        return scope

    def _resolve(self, tag: str) -> str:
        prefix, _, local = tag.rpartition(":")
        namespace = self._scopes[-1].get(prefix)
        if not namespace or ":" in prefix or "}" in namespace:
            raise BadPacketError("a name without a namespace")
        return f"{{{namespace}}}{local}"

    def _read_attributes(self, attributes: dict[str, str]) -> Iterable[tuple[str, str]]:
        """Yield attributes with their full names; RDF's older ones without a prefix are dropped."""
        for name, text in attributes.items():
            if ":" in name and not name.startswith("xmlns:"):
                yield self._resolve(name), text


def read_packet(content: bytes, is_kept: Callable[[str], bool]) -> Packet | None:
    """Read the properties of an XMP packet.

    Parameters
    ----------
    content : UTF-8, or UTF-16 with a byte order mark
    is_kept : tells from a property's name, `{namespace}name`, whether it is wanted

    Returns
    -------
    None if it is damaged, or beyond the limits
    """
    if len(content) > MAX_PACKET_BYTES:
        return None
    if content.startswith((b"\xfe\xff", b"\xff\xfe")):
        content = content.decode("utf-16", "replace").encode()
    else:  # a caption cut within a character, or in Latin-1, costs no other property
        content = content.decode("utf-8", "replace").encode()
    if b"<!DOCTYPE" in content:  # no XMP has one, and only there can entities be defined
        return None
    if any(found[0].count(b"=") > MAX_KEPT for found in LONG_ELEMENT.finditer(content)):
        return None
    reader = PacketReader(is_kept)
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.add_text
    try:
        parser.Parse(content.strip(b"\0 \t\r\n"), True)
    except (expat.ExpatError, BadPacketError):
        return None
    return reader.packet


def write_packet(packet: Packet) -> bytes:
    """Return properties as an XMP packet, in UTF-8; equal properties give equal bytes."""
    prefixes = {XML: "xml", RDF: "rdf"}
    lines = [write_node(node, prefixes, packet.prefixes) for node in packet.properties.values()]
    declared = "".join(
        f' xmlns:{prefix}="{escape(namespace)}"'
        for namespace, prefix in prefixes.items()
        if namespace not in {XML, RDF}
    )
    return "\n".join([f"{HEAD}{declared}>", *lines, TAIL]).encode()


def write_node(node: Node, prefixes: dict[str, str], usual: dict[str, str]) -> str:
    """Write an element.

    Parameters
    ----------
    prefixes : of the namespaces in use; new ones are added
    usual : prefixes for these
    """
    tag = shorten(node.name, prefixes, usual)
    attributes = "".join(
        f' {shorten(name, prefixes, usual)}="{escape(text)}"'
        for name, text in node.attributes.items()
    )
    inner = "".join(write_node(child, prefixes, usual) for child in node.children)
    inner += escape(node.text)
    return f"<{tag}{attributes}>{inner}</{tag}>" if inner else f"<{tag}{attributes}/>"


def shorten(name: str, prefixes: dict[str, str], usual: dict[str, str]) -> str:
    """Return a full name as prefix and local name."""
    namespace, local = split_name(name)
    if namespace not in prefixes:
        prefix = usual.get(namespace, "")
        if not prefix or prefix in {"x", *prefixes.values()} or prefix.startswith("xml"):
            numbered = (f"ns{number}" for number in range(1, len(prefixes) + 2))
            prefix = next(each for each in numbered if each not in prefixes.values())
        prefixes[namespace] = prefix
    return f"{prefixes[namespace]}:{local}"


def escape(text: str) -> str:
    """Escape text for XML, and leave out what XML cannot have."""
    return text.translate(FORBIDDEN).translate(ESCAPES)
