"""A local server that answers as the survey services do, with small made-up catalogues and images.

The forms of the answers (VOTables of TAP and DataLink, pages of SkyView, FITS cut-outs) are those
of the services; the numbers are made up.
"""

import io
import re
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import from_table, writeto
from astropy.table import MaskedColumn, Table

RA, DEC = 187.7, 12.4
OFFSETS = np.array([[0.0, 0.0], [0.02, 0.01], [-0.03, 0.02], [0.055, 0.0]])
"""Of the sources from the centre in degrees on the sky; the last lies in the corner of a circle."""
FLUX = np.array([10.0, 4.0, 2.5, 8.0])
MJY = u.mJy / u.beam


def positions(dec=DEC):
    ra = RA + OFFSETS[:, 0] / np.cos(np.radians(dec))
    return ra * u.deg, (dec + OFFSETS[:, 1]) * u.deg


def first():
    ra, dec = positions()
    n = np.ones(len(ra))
    return Table({
        "FIRST": ["J123048.0+122400"] * len(ra), "RAJ2000": ra, "DEJ2000": dec,
        "p_S_": 0.01 * n, "Fpeak": FLUX * MJY, "Fint": 1.2 * FLUX * u.mJy, "Rms": 0.15 * n * MJY,
        "Maj": 2.0 * n * u.arcsec, "Min": n * u.arcsec, "PA": 30.0 * n * u.deg,
        "fMaj": 5.9 * n * u.arcsec, "fMin": 5.5 * n * u.arcsec, "fPA": 31.0 * n * u.deg,
    })  # fmt: skip


def nvss():
    ra, dec = positions()
    n = np.ones(len(ra))
    return Table({
        "NVSS": ["123048+122400"] * len(ra), "RAJ2000": ra, "DEJ2000": dec,
        "e_RAJ2000": 0.05 * n * u.s, "e_DEJ2000": 0.7 * n * u.arcsec, "S1.4": FLUX * u.mJy,
        "e_S1.4": 0.5 * n * u.mJy, "l_MajAxis": ["<"] * len(ra),
        "MajAxis": MaskedColumn(20.0 * n, mask=[0, 1, 0, 0], unit=u.arcsec),
        "MinAxis": 18.0 * n * u.arcsec,
    })  # fmt: skip


def sumss():
    ra, dec = positions(-45.0)
    n = np.ones(len(ra))
    return Table({
        "RAJ2000": ra, "DEJ2000": dec, "e_RAJ2000": 1.5 * n * u.arcsec,
        "e_DEJ2000": 1.8 * n * u.arcsec, "Sp": FLUX * MJY, "e_Sp": 0.6 * n * MJY,
        "St": 1.1 * FLUX * u.mJy, "e_St": 0.7 * n * u.mJy, "MajAxis": 65.0 * n * u.arcsec,
        "MinAxis": 46.0 * n * u.arcsec, "PA": 2.0 * n * u.deg, "dMajAxis": 10.0 * n * u.arcsec,
        "Mosaic": ["J1230M45"] * len(ra),
    })  # fmt: skip


def vlass():
    ra, dec = positions()
    n = np.ones(len(ra))
    return Table({
        "CompName": ["VLASS1QLCIR J123048.00+122400.0"] * len(ra), "CompId": ["a"] * len(ra),
        "IslId": ["b"] * len(ra), "RAJ2000": ra, "DEJ2000": dec,
        "e_RAJ2000": 0.2 / 3600 * n * u.deg, "e_DEJ2000": 0.3 / 3600 * n * u.deg,
        "Ftot": 1.3 * FLUX * u.mJy, "e_Ftot": 0.2 * n * u.mJy, "Fpeak": FLUX * MJY,
        "e_Fpeak": 0.1 * n * MJY, "Maj": 3.0 * n * u.arcsec, "e_Maj": 0.1 * n * u.arcsec,
        "Min": 2.6 * n * u.arcsec, "e_Min": 0.1 * n * u.arcsec, "PA": 40.0 * n * u.deg,
        "e_PA": n * u.deg, "Islrms": 0.12 * n * MJY, "DupFlag": [0] * len(ra),
        "QualFlag": [0] * len(ra),
    })  # fmt: skip


def racs():
    ra, dec = positions()
    n = np.ones(len(ra))
    return Table({
        "id": np.arange(len(ra)), "source_id": ["RACS_1237+12A_1"] * len(ra),
        "source_name": ["J123048.0+122400"] * len(ra), "ra": ra, "dec": dec,
        "e_ra": 0.5 * n * u.arcsec, "e_dec": 0.5 * n * u.arcsec,
        "total_flux_gaussian": 1.1 * FLUX * u.mJy, "e_total_flux_gaussian": 0.3 * n * u.mJy,
        "peak_flux": FLUX * MJY, "e_peak_flux": 0.2 * n * MJY, "maj_axis": 27.0 * n * u.arcsec,
        "min_axis": 25.0 * n * u.arcsec, "pa": 10.0 * n * u.deg, "noise": 0.3 * n * MJY,
    })  # fmt: skip


def lotss():
    ra, dec = positions()
    n = np.ones(len(ra))
    return Table({
        "source_name": ["ILTJ123048.00+122400.0"] * len(ra), "ra": ra, "dec": dec,
        "e_ra": 0.2 * n * u.arcsec, "e_dec": 0.2 * n * u.arcsec, "peak_flux": FLUX * MJY,
        "e_peak_flux": 0.1 * n * MJY, "total_flux": 1.05 * FLUX * u.mJy,
        "e_total_flux": 0.2 * n * u.mJy, "maj": 6.5 * n * u.arcsec, "min": 6.0 * n * u.arcsec,
        "pa": 50.0 * n * u.deg, "isl_rms": 0.08 * n * MJY, "s_code": ["S"] * len(ra),
    })  # fmt: skip


TABLES = {
    "VIII/92/first14": first, "VIII/65/nvss": nvss, "VIII/81B/sumss212": sumss,
    "J/ApJS/255/30/comp": vlass, "racs_dr1_gaussians_galacticcut": racs,
    "lotss_dr2.main_sources": lotss,
}  # fmt: skip


def votable(table, overflow=False):
    made = from_table(table)
    buffer = io.BytesIO()
    writeto(made, buffer)
    status = "OVERFLOW" if overflow else "OK"
    info = f'<INFO name="QUERY_STATUS" value="{status}"/>'
    text = buffer.getvalue().decode()
    if overflow:
        return text.replace("</TABLE>", f"</TABLE>{info}").encode()
    return re.sub(r"(<RESOURCE[^>]*>)", rf"\1{info}", text, count=1).encode()


def image(side=24, blank=0, **cards):
    """A FITS cut-out, of which the first rows are blank."""
    data = np.ones((side, side), np.float32)
    data[:blank] = np.nan
    header = fits.Header()
    header.update({
        "CTYPE1": "RA---TAN", "CRVAL1": RA, "CRPIX1": side / 2 + 0.5, "CDELT1": -0.005,
        "CTYPE2": "DEC--TAN", "CRVAL2": DEC, "CRPIX2": side / 2 + 0.5, "CDELT2": 0.005,
        **cards,
    })  # fmt: skip
    buffer = io.BytesIO()
    fits.PrimaryHDU(data, header).writeto(buffer)
    return buffer.getvalue()


FORM = """<html><body><form action="runquery.pl" method="POST">
<input type="text" name="Position" value=""><select name="survey" id="RadioGHz">
<option>NVSS</option><option>VLA FIRST (1.4 GHz)</option><option>SUMSS 843 MHz</option></select>
<input type="submit"></form></body></html>"""
PAGE = '<html><body><a href="/tempspace/fits/skv1.fits">FITS</a></body></html>'
CAPABILITIES = """<?xml version="1.0"?><capabilities>
<capability standardID="ivo://ivoa.net/std/DataLink#links-1.0"><interface>
<accessURL use="base">{base}/caom2ops/datalink</accessURL></interface></capability></capabilities>
"""
LINKS = """<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results"><INFO name="QUERY_STATUS" value="OK"/><TABLE>
<FIELD name="ID" datatype="char" arraysize="*"/>
<FIELD name="access_url" datatype="char" arraysize="*"/>
<FIELD name="service_def" datatype="char" arraysize="*"/>
<FIELD name="error_message" datatype="char" arraysize="*"/>
<FIELD name="semantics" datatype="char" arraysize="*"/>
<FIELD name="description" datatype="char" arraysize="*"/>
<FIELD name="content_type" datatype="char" arraysize="*"/>
<FIELD name="content_length" datatype="long"/>
<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE></RESOURCE>{services}</VOTABLE>"""
ROW = """<TR><TD>{id}</TD><TD/><TD>{service}</TD><TD/><TD>#cutout</TD><TD/>
<TD>application/fits</TD><TD/></TR>"""
SERVICE = """<RESOURCE type="meta" utype="adhoc:service" ID="{service}">
<PARAM name="standardID" datatype="char" arraysize="*" value="ivo://ivoa.net/std/SODA#sync-1.0"/>
<PARAM name="accessURL" datatype="char" arraysize="*" value="{base}/caom2ops/sync"/>
<GROUP name="inputParams"><PARAM name="ID" datatype="char" arraysize="*" value="{file}"/>
<PARAM name="POS" datatype="char" arraysize="*" value=""/></GROUP></RESOURCE>"""
PLANES = Table({
    "productID": [f"VLASS{epoch}.T17t23.J1230.quicklook" for epoch in ("1.1", "2.1", "2.1")],
    "publisherID": [f"ivo://cadc.nrc.ca/VLASS?{name}" for name in ("old", "edge", "whole")],
    "dataProductType": ["image"] * 3,
})  # fmt: skip


class SurveyServer:
    """The server: `url`, `log` of (path, query), and what to do wrong."""

    def __init__(self):
        self.log, self.busy, self.slow, self.overflow, self.broken = [], 0, 0.0, False, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    @property
    def services(self):
        ends = {
            "vizier": "/tap", "casda": "/tap", "astron": "/tap", "skyview": "/basicform.pl",
            "hips2fits": "/hips2fits", "cadc": "/reg/resource-caps", "lofar": "/lofar",
        }  # fmt: skip
        return {name: self.url + end for name, end in ends.items()}

    def answer(self, handler):
        path, query = urlsplit(handler.path).path.replace("//", "/"), urlsplit(handler.path).query
        length = int(handler.headers.get("Content-Length") or 0)
        asked = {k: v[0] for k, v in parse_qs(query or handler.rfile.read(length).decode()).items()}
        self.log.append((path, asked))
        time.sleep(self.slow)
        if self.busy:
            self.busy -= 1
            body, status = b"busy", 503
        else:
            body, status = self.body(path, asked, handler.path), 200
        handler.send_response(status if body is not None else 404)
        body = body or b""
        body = body.encode() if isinstance(body, str) else body
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with suppress(BrokenPipeError):  # of one who has waited long enough
            handler.wfile.write(body)

    def body(self, path, asked, raw):
        if self.broken:
            return "<html>This position is not covered</html>"
        if path == "/tap/sync":
            return self.rows(asked["QUERY"])
        if path == "/argus/sync":
            return votable(PLANES)
        if path == "/caom2ops/sync":
            return image(blank=8 if "edge" in asked["ID"] else 0, OBJECT=asked["ID"])
        if path in ("/tempspace/fits/skv1.fits", "/hips2fits"):
            return image()
        if path == "/lofar":
            return image(BMAJ=6 / 3600, BMIN=6 / 3600, BPA=90.0, BUNIT="JY/BEAM")
        if path == "/sesame":
            known = "%J 187.70593 +12.39112 = 12:30:49.4 +12:23:28\n"
            return known if "M" in raw else "#!Nothing found"
        if path.startswith("/caom2ops/datalink"):
            return self.links()
        pages = {
            "/basicform.pl": FORM,
            "/runquery.pl": PAGE,
            "/reg/resource-caps": "\n".join(
                f"ivo://cadc.nrc.ca/{name} = {self.url}/{name}/capabilities"
                for name in ("argus", "caom2ops")
            ),
            "/rdf/datalink/core": '{"terms": {"cutout": {"narrower": []}}}',
            "/caom2ops/capabilities": CAPABILITIES.format(base=self.url),
        }
        return pages.get(path)

    def rows(self, query):
        for name, make in TABLES.items():
            if name in query:
                return votable(make(), self.overflow)
        return votable(racs()[:0])

    def links(self):
        files = ("edge.tt0", "edge.rms", "whole.tt0", "whole.rms")
        rows = "".join(ROW.format(id=f, service=f"s{n}") for n, f in enumerate(files))
        services = "".join(
            SERVICE.format(service=f"s{n}", base=self.url, file=f) for n, f in enumerate(files)
        )
        return LINKS.format(rows=rows, services=services)
