"""Which XMP a result keeps: the properties by their names, and what may be inside them."""

from superres.images.xmp_packet import RDF, XML, Node, Packet, split_name

DC, PHOTOSHOP = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/photoshop/1.0/"
XMP, TIFF = "http://ns.adobe.com/xap/1.0/", "http://ns.adobe.com/tiff/1.0/"
EXIF, EXIF_EX = "http://ns.adobe.com/exif/1.0/", "http://cipa.jp/exif/1.0/"
RIGHTS, MEDIA = "http://ns.adobe.com/xap/1.0/rights/", "http://ns.adobe.com/xap/1.0/mm/"
IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"


def list_names(table: dict[str, str]) -> frozenset[str]:
    """Return the full names of a table's properties."""
    return frozenset(
        f"{{{namespace}}}{name}" for namespace, names in table.items() for name in names.split()
    )


# Who made the image, when, with what and how, what it shows, and what may be done with it. Not: its
# place, persons, contacts, identifiers, serial numbers, history, and what nobody has looked at: a
# namespace of its own may hold anything.
SAFE_PROPERTIES = {
    DC: "title description creator contributor publisher rights subject date language type",
    XMP: "CreateDate ModifyDate MetadataDate CreatorTool Rating Label",
    RIGHTS: "Certificate Marked Owner UsageTerms WebStatement",
    PHOTOSHOP: "AuthorsPosition CaptionWriter Category Credit DateCreated Headline Instructions"
    " Source SupplementalCategories Urgency",
    IPTC_CORE: "AltTextAccessibility ExtDescrAccessibility IntellectualGenre Scene SubjectCode",
    IPTC_EXT: "AIPromptInformation AIPromptWriterName AISystemUsed AISystemVersionUsed"
    " DigitalSourceType",
    PLUS: "CopyrightOwner DataMining ImageCreator",
    "http://creativecommons.org/ns#": "attributionName attributionURL license morePermissions",
    TIFF: "Artist Copyright DateTime ImageDescription Make Model Software"
    " ImageLength ImageWidth Orientation ResolutionUnit XResolution YResolution",
    EXIF: "ApertureValue BrightnessValue DateTimeDigitized DateTimeOriginal ExposureBiasValue"
    " ExposureProgram ExposureTime FNumber Flash FocalLength FocalLengthIn35mmFilm ISOSpeedRatings"
    " LightSource MaxApertureValue MeteringMode ShutterSpeedValue UserComment WhiteBalance"
    " PixelXDimension PixelYDimension",
    EXIF_EX: "LensMake LensModel PhotographicSensitivity SensitivityType",
    "http://ns.adobe.com/exif/1.0/aux/": "Lens LensInfo",
}
SAFE = list_names(SAFE_PROPERTIES)
# What RDF itself needs inside a property; not its identifiers (about, ID, nodeID) and types.
RDF_PARTS = list_names({RDF: "Alt Bag Seq li value Description parseType resource", XML: "lang"})
# Those that are no value by themselves.
FORMS = list_names({RDF: "parseType", XML: "lang"})
# The fields of the safe properties that are structures, as their standards have them; no
# identifiers. Anything else in a property is a qualifier that a program has put there.
SAFE_FIELDS = {
    f"{{{EXIF}}}Flash": list_names({EXIF: "Fired Return Mode Function RedEyeMode"}),
    f"{{{PLUS}}}CopyrightOwner": list_names({PLUS: "CopyrightOwnerName"}),
    f"{{{PLUS}}}ImageCreator": list_names({PLUS: "ImageCreatorName"}),
}
# Gain maps, depth maps and films that the result does not have, panoramas and faces in pixels of
# the original, and where the rest of the packet was.
STALE_NAMESPACES = frozenset(
    {
        "http://ns.adobe.com/xmp/note/",
        *("http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/"),
        *(f"http://ns.google.com/photos/1.0/{name}/" for name in ("camera", "container")),
        *(f"http://ns.google.com/photos/1.0/{name}/" for name in ("depthmap", "focus", "image")),
        *(f"http://ns.google.com/photos/1.0/{name}/" for name in ("audio", "panorama")),
        *(
            "http://ns.google.com/photos/dd/1.0/device/",
            "http://ns.google.com/photos/dd/1.0/image/",
        ),
        *(
            "http://www.metadataworkinggroup.com/schemas/regions/",
            "http://ns.microsoft.com/photo/1.2/",
            "http://ns.acdsee.com/regions/",
        ),
    }
)
STALE_PROPERTIES = {
    DC: "format",
    XMP: "Thumbnails",
    MEDIA: "InstanceID",
    PHOTOSHOP: "ColorMode ICCProfile",
    "http://purl.org/dc/terms/": "provenance",
    TIFF: "BitsPerSample Compression NativeDigest PhotometricInterpretation PlanarConfiguration"
    " PrimaryChromaticities ReferenceBlackWhite SamplesPerPixel TransferFunction WhitePoint"
    " YCbCrCoefficients YCbCrPositioning YCbCrSubSampling",
    EXIF: "ComponentsConfiguration CompressedBitsPerPixel MakerNote NativeDigest SubjectArea"
    " SubjectLocation FocalPlaneXResolution FocalPlaneYResolution FocalPlaneResolutionUnit",
    IPTC_EXT: "ImageRegion",
}
STALE = list_names(STALE_PROPERTIES)


def is_kept(name: str, keep: str) -> bool:
    """Tell whether a property is kept.

    Parameters
    ----------
    name : `{namespace}name`
    keep : "all" except what would be wrong in the result, "safe" properties only, or "none"
    """
    if keep == "all":
        return name not in STALE and split_name(name)[0] not in STALE_NAMESPACES
    return keep == "safe" and name in SAFE


def drop_unsafe_parts(packet: Packet) -> None:
    """Remove what is not known to be harmless from inside a packet's properties.

    A place or a serial number may be inside a harmless property, as a qualifier or as a field.
    """
    for name, node in list(packet.properties.items()):
        if not keep_parts(node, RDF_PARTS | SAFE_FIELDS.get(name, frozenset())):
            del packet.properties[name]


def keep_parts(node: Node, names: frozenset[str]) -> bool:
    """Keep only attributes and elements of these names inside an element.

    Returns
    -------
    False if nothing is left of its value, but was there before
    """
    size = len(node.attributes) + len(node.children)
    node.attributes = {name: text for name, text in node.attributes.items() if name in names}
    node.children = [
        child for child in node.children if child.name in names and keep_parts(child, names)
    ]
    is_whole = len(node.attributes) + len(node.children) == size
    has_value = node.children or node.text.strip() or node.attributes.keys() - FORMS
    return is_whole or bool(has_value)
