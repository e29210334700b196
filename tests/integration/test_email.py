"""The email channel against a mail server that does what the test says: bytes as received, outcomes as said."""

import ipaddress
import logging
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import dkim
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pipelines.catalog import Catalog
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from schema.errors import TocsinError
from tests.fakes.smtp import DROP, HANG, MailServer, after, always, once
from workers.channels import email
from workers.providers import mail_server, smtp
from workers.settings import settings as configured

Configure = Callable[..., None]
Send = Callable[..., list[Outcome]]
SECRET = "a secret of at least 32 bytes, for links"


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """configure(server, smtp_url=…, dkim=…): this process's settings, until the test ends."""

    def set_up(server: MailServer | None = None, **variables: str) -> None:
        usual = {
            "jwt_secret": SECRET,
            "public_url": "https://shop.example/",
            "mail_from": "Shöp <news@shop.example>",
        }
        if server:
            usual["smtp_url"] = f"smtp://127.0.0.1:{server.port}"
        for name, value in (usual | variables).items():
            monkeypatch.setenv(f"TOCSIN_{name.upper()}", value)
        configured.cache_clear()

    configured.cache_clear()
    yield set_up
    smtp.hang_up()
    configured.cache_clear()


@pytest.fixture
def send(catalog: Catalog) -> Send:
    use = Resources(cast("Any", None), cast("Any", None), catalog, frozenset({"email"}))
    return lambda *parcels: email.send(list(parcels), use)


def parcel(address: str = "ada@example.com", **facts: Any) -> Parcel:
    usual: dict[str, Any] = {
        "delivery": uuid4(),
        "attempt": 1,
        "notification": UUID(int=7),
        "user": "ada",
        "type": "comment",
        "category": "social",
        "importance": "normal",
        "title": "New comment from Bob",
        "message": "Great post!",
        "action_url": "/posts/p-42#comment-c-7",
        "data": {"userName": "Bob", "comment": "Great post!", "postId": "p-42", "commentId": "c-7"},
        "created_at": datetime(2030, 1, 1, tzinfo=UTC),
    }
    return Parcel(address=address, **usual | facts)


each_way = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])


def system(title: str, message: str, **facts: Any) -> Parcel:
    data = {"title": title, "text": message}
    return parcel(
        type="system", category="system", title=title, message=message, data=data, action_url=None, **facts
    )


def test_a_mail_as_it_arrives(configure: Configure, send: Send) -> None:
    one = parcel()
    with MailServer() as server:
        configure(server)
        assert send(one) == [Sent("000001")]
        (received,), (message,) = server.received, server.messages
    assert (received.sender, received.recipients) == ("news@shop.example", ("ada@example.com",))
    assert message.keys() == [
        "From", "To", "Date", "Message-ID", "Auto-Submitted", "List-Unsubscribe", "List-Unsubscribe-Post",
        "Subject", "MIME-Version", "Content-Type",
    ]  # fmt: skip
    assert message.defects == []
    assert message["From"] == "Shöp <news@shop.example>"
    assert message["To"] == "ada@example.com"
    assert message["Subject"] == "Bob commented on your post"
    assert message["Message-ID"] == f"<{one.delivery}@shop.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert abs(message["Date"].datetime - datetime.now(UTC)) < timedelta(minutes=1)
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    for part in message.iter_parts():
        assert part.get_content_charset() == "utf-8"
        assert "https://shop.example/posts/p-42#comment-c-7" in part.get_content()


def test_one_click_unsubscribes(configure: Configure, send: Send) -> None:
    """RFC 8058: both headers, as they are, whatever the length of the address."""
    with MailServer() as server:
        configure(server)
        send(parcel(user="u" * 255))
        (received,), (message,) = server.received, server.messages
    url = message["List-Unsubscribe"]
    assert url.startswith("<https://shop.example/unsubscribe/")
    assert url.endswith(">")
    assert f"\r\nList-Unsubscribe: {url}\r\n".encode() in received.content
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in received.content
    for part in message.iter_parts():
        assert url.strip("<>") in part.get_content()


def test_one_connection_carries_many_mails(configure: Configure, send: Send) -> None:
    with MailServer() as server:
        configure(server)
        for _ in range(5):
            assert all(isinstance(outcome, Sent) for outcome in send(*[parcel() for _ in range(20)]))
        assert server.connections == 1
        send(parcel(), parcel())
        assert server.connections == 2, "a hundred are enough"
        assert len(server.received) == 102
        assert len({message["Message-ID"] for message in server.messages}) == 102


def test_threads_do_not_share_a_connection(configure: Configure, send: Send) -> None:
    def batches(_: int) -> list[Outcome]:
        outcomes = send(*[parcel() for _ in range(10)]) + send(parcel())
        smtp.hang_up()
        return outcomes

    with MailServer() as server:
        configure(server)
        with ThreadPoolExecutor(4) as threads:
            outcomes = [outcome for some in threads.map(batches, range(4)) for outcome in some]
        assert all(isinstance(outcome, Sent) for outcome in outcomes)
        assert (len(outcomes), len(server.received)) == (44, 44)
        assert server.connections <= 4


@pytest.mark.parametrize(
    ("stage", "answer", "outcome"),
    [
        ("mail", "421 4.3.2 shutting down", Away("busy", "421 4.3.2 shutting down", 60)),
        ("rcpt", "421 4.7.0 slow down", Away("busy", "421 4.7.0 slow down", 60)),
        ("end", "421 4.3.0 not now", Away("busy", "421 4.3.0 not now", 60)),
        ("connect", "421 4.3.2 no service", Away("busy", "421 4.3.2 no service", 60)),
        ("connect", "554 5.7.1 go away", Away("refused", "554 5.7.1 go away")),
        ("mail", "452 4.3.1 disk full", Away("sender_refused", "452 4.3.1 disk full", 60)),
        ("mail", "553 5.1.8 who are you", Away("sender_refused", "553 5.1.8 who are you", 60)),
        ("mail", "530 5.7.0 sign in", Away("auth", "530 5.7.0 sign in", 60)),
        ("mail", "552 5.3.4 too large", Never("too_large", "552 5.3.4 too large")),
        ("rcpt", "550 5.7.0 x", Never("refused", "550 5.7.0 x")),
        ("rcpt", "530 5.7.0 sign in", Away("auth", "530 5.7.0 sign in", 60)),
        ("rcpt", "450 4.1.8 no such domain", Away("sender_refused", "450 4.1.8 no such domain", 60)),
        ("rcpt", "553 5.1.8 sender rejected", Away("sender_refused", "553 5.1.8 sender rejected", 60)),
        ("rcpt", "450 4.2.0 Greylisted, come back", Later("greylisted", "450 4.2.0 Greylisted, come back")),
        ("rcpt", "452 4.2.2 mailbox full", Later("deferred", "452 4.2.2 mailbox full")),
        ("rcpt", "451 try later", Later("deferred", "451 try later")),
        ("rcpt", "550 5.1.1 unknown", Gone("mailbox_unknown", "550 5.1.1 unknown")),
        ("rcpt", "551 5.1.6 moved", Gone("mailbox_unknown", "551 5.1.6 moved")),
        ("rcpt", "553 5.1.3 bad address", Gone("mailbox_unknown", "553 5.1.3 bad address")),
        ("rcpt", "556 5.1.10 null MX", Gone("mailbox_unknown", "556 5.1.10 null MX")),
        ("end", "550 5.1.1 unknown after all", Gone("mailbox_unknown", "550 5.1.1 unknown after all")),
        ("rcpt", "550 blocked, see 5.1.1", Never("refused", "550 blocked, see 5.1.1")),
        ("rcpt", "554 5.7.1 relay denied", Never("refused", "554 5.7.1 relay denied")),
        ("rcpt", "550 5.1.10x", Never("refused", "550 5.1.10x")),
        ("data", "451 4.3.0 later", Later("deferred", "451 4.3.0 later")),
        ("data", "250 what?", Later("protocol", "250 what?", answered=False)),
        ("end", "451 4.7.1 later", Later("deferred", "451 4.7.1 later")),
        ("end", "554 5.6.0 spam", Never("refused", "554 5.6.0 spam")),
        ("end", "552 5.3.4 too large", Never("too_large", "552 5.3.4 too large")),
        ("end", "354 what?", Unknown("protocol", "354 what?")),
        ("end", "nonsense", Unknown("protocol", "-1 ense")),
        ("rcpt", "550 5.7.1 " + "x" * 900, Never("refused", "550 5.7.1 " + "x" * 490)),
    ],
)
@each_way
def test_what_an_answer_means(
    configure: Configure, send: Send, pipelining: bool, stage: str, answer: str, outcome: Outcome
) -> None:
    with MailServer(once(stage, answer), pipelining=pipelining) as server:
        configure(server)
        first, second = send(parcel(), parcel())
        assert first == outcome
        assert second == outcome if isinstance(outcome, Away) else isinstance(second, Sent)
        assert [stage for stage, _ in server.heard].count("end") == (stage == "end") + isinstance(second, Sent)


@pytest.mark.parametrize(
    ("said", "receipt"),
    [
        ("2.0.0 Ok: queued as 4XyZ9", "4XyZ9"),
        ("OK id=1abcDE-0001-Xy", "1abcDE-0001-Xy"),
        ("2.0.0 w8AB12 Message accepted for delivery", "w8AB12"),
        ("Ok 0100018a2b3c4d5e-6f708192-1234-0000", "0100018a2b3c4d5e-6f708192-1234-0000"),
        ("2.0.0 OK", None),
    ],
)
def test_a_receipt_is_the_servers_own_number(
    configure: Configure, send: Send, said: str, receipt: str | None
) -> None:
    with MailServer(always("end", f"250 {said}")) as server:
        configure(server)
        assert send(parcel()) == [Sent(receipt)]


@each_way
def test_a_refused_recipient_harms_no_other(configure: Configure, send: Send, pipelining: bool) -> None:
    def script(stage: str, address: str) -> str | None:
        return "550 5.1.1 unknown" if stage == "rcpt" and address.startswith("nobody") else None

    with MailServer(script, pipelining=pipelining) as server:
        configure(server)
        outcomes = send(parcel(), parcel("nobody@example.com"), parcel("eve@example.com"))
        assert [type(outcome) for outcome in outcomes] == [Sent, Gone, Sent]
        assert [received.recipients for received in server.received] == [
            ("ada@example.com",),
            ("eve@example.com",),
        ]
        assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("554 5.7.1 relay access denied", Away("refused", "554 5.7.1 relay access denied", 60)),
        ("550 5.1.1 unknown", Later("mailbox_unknown", "550 5.1.1 unknown", 60)),
    ],
)
def test_what_everybody_is_told_is_not_about_their_mailboxes(
    configure: Configure, send: Send, answer: str, expected: Outcome
) -> None:
    """A relay that refuses us, or whose users are not found: no mail fails, no address is given up."""
    with MailServer(always("rcpt", answer)) as server:
        configure(server)
        assert send(*[parcel(f"{number}@example.com") for number in range(8)]) == [expected] * 8
        assert type(send(parcel())[0]) in (Never, Gone), "one alone may be about itself"


def test_a_bug_in_one_mail_is_its_own(
    configure: Configure, send: Send, monkeypatch: pytest.MonkeyPatch, catalog: Catalog
) -> None:
    with MailServer() as server:
        configure(server)
        outcomes = send(parcel(), parcel(data=cast("Any", 5)), parcel())
    assert [type(outcome) for outcome in outcomes] == [Sent, Never, Sent]


def test_a_server_that_waits_for_a_message_to_nobody_gets_none(configure: Configure, send: Send) -> None:
    """RFC 2920, 3.1: DATA was on its way already, and such a server says 354 to it."""
    answers = {"rcpt": "550 5.1.1 unknown", "data": "354 go on"}
    with MailServer(lambda stage, _: answers.pop(stage, None)) as server:
        configure(server)
        assert [type(outcome) for outcome in send(parcel(), parcel())] == [Gone, Sent]
        assert (len(server.received), server.connections) == (1, 1)


@each_way
def test_a_connection_the_server_is_tired_of_is_replaced(
    configure: Configure, send: Send, pipelining: bool
) -> None:
    answer = after(2, "mail", "421 4.7.0 too many mails in one connection")
    with MailServer(answer, pipelining=pipelining) as server:
        configure(server)
        assert [type(outcome) for outcome in send(*[parcel() for _ in range(5)])] == [Sent] * 5
        assert (len(server.received), server.connections) == (5, 2)


def test_a_connection_that_ended_between_two_batches_is_replaced(
    configure: Configure, send: Send, eventually: Callable[..., object]
) -> None:
    with MailServer() as server:
        configure(server)
        send(parcel())
        server.drop_all()
        eventually(lambda: not server.clients)
        assert [type(outcome) for outcome in send(parcel(), parcel())] == [Sent, Sent]
        assert (len(server.received), server.connections) == (3, 2)


def test_an_idle_connection_is_asked_whether_it_lives(
    configure: Configure, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "_ASKED", -1.0)
    with MailServer() as server:
        configure(server)
        send(parcel())
        send(parcel())
        assert server.connections == 1
        monkeypatch.setattr(smtp, "_IDLE", -1.0)
        send(parcel())
        assert server.connections == 2


def test_a_mail_sent_twice_is_seen_to_be_the_same(configure: Configure, send: Send) -> None:
    one = parcel()
    with MailServer(once("end", DROP)) as server:
        configure(server)
        first, other = send(one, parcel())
        assert first == Unknown("connection_lost")
        assert isinstance(other, Sent), "the next goes over a new connection"
        assert isinstance(send(one)[0], Sent)
        ids = [message["Message-ID"] for message in server.messages]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("what", [DROP, HANG])
@pytest.mark.parametrize(
    ("stage", "expected"), [("connect", Away), ("mail", Away), ("rcpt", Later), ("data", Later), ("end", Unknown)]
)
@each_way
def test_a_server_that_never_answers(
    configure: Configure,
    send: Send,
    monkeypatch: pytest.MonkeyPatch,
    pipelining: bool,
    what: str,
    stage: str,
    expected: type,
) -> None:
    monkeypatch.setattr(smtp, "LONGEST_ANSWER", 0.3)
    with MailServer(once(stage, what), pipelining=pipelining) as server:
        configure(server)
        first, second = send(parcel(), parcel())
        reason = "timeout" if what == HANG else "connection_lost"
        assert first == (Later(reason, answered=False) if expected is Later else expected(reason))
        assert second == first if expected is Away else isinstance(second, Sent)
        assert isinstance(send(parcel())[0], Sent)


def test_a_server_that_is_lost_again_and_again_is_away(configure: Configure, send: Send) -> None:
    with MailServer(always("end", DROP)) as server:
        configure(server)
        outcomes = send(*[parcel() for _ in range(5)])
        assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown, Away, Away, Away]
        assert len(server.received) == 2


def test_a_server_that_is_not_there_is_asked_once(
    configure: Configure, send: Send, free_port: Callable[[], int]
) -> None:
    configure(smtp_url=f"smtp://127.0.0.1:{free_port()}")
    assert send(*[parcel() for _ in range(3)]) == [Away("unreachable", "Connection refused")] * 3
    assert send() == []


def test_a_name_that_does_not_resolve_is_away(configure: Configure, send: Send) -> None:
    configure(smtp_url="smtp://mail.invalid")
    (outcome,) = send(parcel())
    assert isinstance(outcome, Away)
    assert outcome.reason == "unreachable"


def test_a_batch_ends_in_time(configure: Configure, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    assert email._STARTS < email._ENDS < email.LEASE
    monkeypatch.setattr(email, "_STARTS", 0.2)
    monkeypatch.setattr(email, "_ENDS", 0.5)
    with MailServer(once("end", HANG)) as server:
        configure(server)
        begun = time.monotonic()
        assert send(parcel(), parcel(), parcel()) == [Unknown("timeout"), Away("slow"), Away("slow")]
        assert time.monotonic() - begun < 5
        assert len(server.received) == 1


@pytest.mark.parametrize(
    "address",
    [
        "a@b.com, evil@example.com",
        "a@b.com,evil@example.com",
        "a@b.com\r\nBcc: evil@example.com",
        "a@b.com\nRCPT TO:<evil@example.com>",
        "Ada <a@b.com>",
        "<a@b.com>",
        "a@b.com> NOTIFY=NEVER",
        "a b@example.com",
        '"a@b.com, x"@example.com',
        "a@b.com;evil@example.com",
        "group: a@b.com;",
        "ada",
        "ada@",
        "@example.com",
        "a@b.com\x00",
        "",
    ],
)
def test_an_address_is_one_address_or_none(configure: Configure, send: Send, address: str) -> None:
    with MailServer() as server:
        configure(server)
        first, second = send(parcel(address), parcel())
        assert first == Gone("invalid_address")
        assert isinstance(second, Sent)
        assert [received.recipients for received in server.received] == [("ada@example.com",)]


@pytest.mark.parametrize("address", ["ada@localhost", "ada@mail.test", "ada@host.local", "ada+x@example.com"])
def test_names_inside_a_house_are_names(configure: Configure, send: Send, address: str) -> None:
    with MailServer() as server:
        configure(server)
        assert isinstance(send(parcel(address))[0], Sent)
        assert server.received[0].recipients == (address,)


def test_an_international_domain_is_written_in_ascii(configure: Configure, send: Send) -> None:
    with MailServer() as server:
        configure(server)
        assert isinstance(send(parcel("ada@exämple.com"))[0], Sent)
        assert server.received[0].recipients == ("ada@xn--exmple-cua.com",)
        assert server.messages[0]["To"] == "ada@xn--exmple-cua.com"


@pytest.mark.parametrize("utf8", [True, False])
def test_an_international_name_needs_a_server_that_takes_it(configure: Configure, send: Send, utf8: bool) -> None:
    with MailServer(utf8=utf8) as server:
        configure(server)
        first, second = send(parcel("adá@example.com"), parcel())
        assert isinstance(first, Sent if utf8 else Never)
        assert isinstance(second, Sent)
        if utf8:
            assert server.received[0].recipients == ("adá@example.com",)
            assert "To: adá@example.com\r\n".encode() in server.received[0].content


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\u2028", "\x0b"])
def test_no_text_adds_a_header_or_a_recipient(configure: Configure, send: Send, break_: str) -> None:
    evil = f"Hi{break_}Bcc: evil@example.com{break_}{break_}body{break_}.{break_}MAIL FROM:<x@y.test>"
    with MailServer() as server:
        configure(server)
        outcomes = send(
            system(evil, evil), parcel(data=parcel().data | {"userName": evil}, category=f"c{break_}x: y")
        )
        assert [type(outcome) for outcome in outcomes] == [Sent, Sent]
        for received, message in zip(server.received, server.messages, strict=True):
            assert received.recipients == ("ada@example.com",)
            assert "Bcc" not in message
            assert len(message.keys()) == 10
            assert "Bcc: evil@example.com" in message["Subject"]


def test_a_header_that_would_become_two_is_given_up(configure: Configure, send: Send) -> None:
    with MailServer() as server:
        configure(server, public_url="https://shop.example/\u2028x")
        assert (
            send(parcel(), parcel())
            == [Never("invalid_header", "List-Unsubscribe holds a line break or a control character")] * 2
        )
        assert server.received == []


def test_what_cannot_be_rendered_is_given_up(configure: Configure, send: Send) -> None:
    with MailServer() as server:
        configure(server)
        first, gone, fine = send(parcel(data={}), parcel(type="gone"), parcel())
        assert isinstance(first, Never)
        assert first.said.startswith("templates/comment/email.subject.txt.j2:1: ")
        assert gone == Never("template", "templates/gone: is missing; the event was accepted when it was there")
        assert isinstance(fine, Sent)


def test_lines_that_end_a_message_do_not(configure: Configure, send: Send) -> None:
    text = ".\n..\n.x\nFrom here\n" + "long " * 400 + "\n."
    with MailServer() as server:
        configure(server)
        send(system("Title", text))
        part = server.messages[0].get_body(("plain",))
        assert part is not None
        shown = part.get_content().replace("\r\n", "\n")
        assert ".\n..\n.x\nFrom here\n" in shown
        assert "long long" in shown


# --- TLS and signing in


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls"])
def test_what_a_server_offers_to_encrypt_is_encrypted(
    configure: Configure, send: Send, tls: ssl.SSLContext, scheme: str
) -> None:
    with MailServer(starttls=tls) as server:
        configure(server, smtp_url=f"{scheme}://127.0.0.1:{server.port}")
        assert [type(outcome) for outcome in send(parcel(), parcel())] == [Sent, Sent]
        assert [received.encrypted for received in server.received] == [True, True]
        assert server.connections == 1


@pytest.mark.usefixtures("trusted")
def test_a_connection_may_be_encrypted_from_its_first_byte(
    configure: Configure, send: Send, tls: ssl.SSLContext
) -> None:
    with MailServer(tls=tls) as server:
        configure(server, smtp_url=f"smtps://127.0.0.1:{server.port}")
        assert isinstance(send(parcel())[0], Sent)
        assert server.received[0].encrypted


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
def test_a_certificate_nobody_vouches_for_is_refused(
    configure: Configure, send: Send, tls: ssl.SSLContext, scheme: str
) -> None:
    with MailServer(tls=tls) if scheme == "smtps" else MailServer(starttls=tls) as server:
        configure(server, smtp_url=f"{scheme}://127.0.0.1:{server.port}")
        (outcome,) = send(parcel())
        assert isinstance(outcome, Away)
        assert outcome.reason == "tls"
        assert "certificate verify failed" in outcome.said
        assert server.received == []


def test_a_mail_that_must_be_encrypted_is_never_sent_in_the_clear(configure: Configure, send: Send) -> None:
    with MailServer() as server:
        configure(server, smtp_url=f"smtp+starttls://127.0.0.1:{server.port}")
        assert send(parcel()) == [Away("tls", "the server offers no STARTTLS")]
        configure(server, smtp_url=f"smtps://127.0.0.1:{server.port}")
        (outcome,) = send(parcel())
        assert isinstance(outcome, Away)
        assert outcome.reason == "tls"
        assert server.received == []


def test_signing_in(configure: Configure, send: Send) -> None:
    with MailServer(account=("us@er", "p/a:ss#?")) as server:
        configure(server, smtp_url=f"smtp://us%40er:p%2Fa%3Ass%23%3F@127.0.0.1:{server.port}")
        assert isinstance(send(parcel())[0], Sent)
        configure(server, smtp_url=f"smtp://us%40er:wrong-one@127.0.0.1:{server.port}")
        (outcome,) = send(parcel())
        assert isinstance(outcome, Away)
        assert (outcome.reason, outcome.wait) == ("auth", 60)
        assert outcome.said.startswith("535 ")
        assert "wrong-one" not in outcome.said


def test_a_server_that_knows_no_accounts(configure: Configure, send: Send) -> None:
    with MailServer() as server:
        configure(server, smtp_url=f"smtp://user:secret@127.0.0.1:{server.port}")
        assert send(parcel()) == [Away("auth", "the server offers no AUTH", 60)]


# --- DKIM


@pytest.fixture(scope="module")
def private_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The file of a private key, and the record that DNS would have."""
    key = rsa.generate_private_key(65537, 2048)
    file = tmp_path_factory.mktemp("dkim") / "private.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return file, b"v=DKIM1; k=rsa; p=" + b64encode(public)


def test_a_signed_mail_is_verified(configure: Configure, send: Send, private_key: tuple[Path, bytes]) -> None:
    file, record = private_key
    asked = []

    def dns(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name)
        return record

    with MailServer() as server:
        configure(server, dkim=f"shop.example:s1:{file}")
        assert isinstance(send(system("Zwölf Boxkämpfer", ".\n\ntext \n" + "x" * 2000))[0], Sent)
        content = server.received[0].content
    assert dkim.verify(content, dnsfunc=dns)
    assert asked == [b"s1._domainkey.shop.example."]
    header = "".join(server.messages[0]["DKIM-Signature"].split())
    signed = dict(tag.split("=", 1) for tag in header.split(";"))
    assert (signed["d"], signed["s"], signed["a"]) == ("shop.example", "s1", "rsa-sha256")
    assert signed["h"].split(":") == [
        "from", "from", "to", "subject", "date", "message-id", "list-unsubscribe", "list-unsubscribe-post",
    ]  # fmt: skip
    for old, new in (
        (b"One-Click", b"Two-Click"),
        (b"https://shop.example/unsub", b"https://evil.example/unsub"),
        (b"\r\nTo: ", b"\r\nFrom: evil@example.com\r\nTo: "),
        (b"text/html", b"text/htm1"),
    ):
        changed = content.replace(old, new)
        assert changed != content
        assert not dkim.verify(changed, dnsfunc=dns), old


def test_a_key_that_cannot_be_read_loses_no_mail(configure: Configure, send: Send, tmp_path: Path) -> None:
    with MailServer() as server:
        file = tmp_path / "private.pem"
        configure(server, dkim=f"shop.example:s1:{file}")
        (missing,) = send(parcel())
        file.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        (wrong,) = send(parcel())
        assert isinstance(missing, Away)
        assert (missing.reason, missing.wait) == ("configuration", 60)
        assert "cannot be read: No such file" in missing.said
        assert isinstance(wrong, Away)
        assert "holds no private RSA key" in wrong.said
        assert server.connections == 0


# --- configuration


def test_no_mail_server_is_no_email(configure: Configure) -> None:
    configure()
    assert not email.ready()
    configure(smtp_url="smtp://mail.example")
    assert email.ready()


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example", ("mail.example", 25, "offered", "", "")),
        ("smtp://mail.example:1025/", ("mail.example", 1025, "offered", "", "")),
        ("smtp+starttls://u:p@mail.example", ("mail.example", 587, "required", "u", "p")),
        ("smtps://a%40b:c%3Ad@[::1]", ("::1", 465, "always", "a@b", "c:d")),
    ],
)
def test_where_mail_goes(url: str, server: tuple[Any, ...]) -> None:
    assert mail_server.parse(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "mail.example:25",
        "http://mail.example",
        "smtp://",
        "smtp://u:geheim@mail.example:port",
        "smtp://u:geheim@mail.example:99999",
        "smtp://u:geheim/1@mail.example",
        "smtp://u:geheim#1@mail.example",
        "smtp://u:geheim?1@mail.example",
        "smtp://u:geheim%C3%A4@mail.example",
        "smtp://u:geheim%0D%0A@mail.example",
        "smtp://u:geheim@[::1",
    ],
)
def test_a_wrong_url_is_said_without_its_password(configure: Configure, url: str) -> None:
    configure(smtp_url=url)
    with pytest.raises(TocsinError, match="TOCSIN_SMTP_URL") as caught:
        email.ready()
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("sender", ["", "Shop", "a@b.test, c@d.test", "Shop <a@b..test>", "ü@b.test"])
def test_a_wrong_sender_is_said(configure: Configure, sender: str) -> None:
    configure(smtp_url="smtp://mail.example", mail_from=sender)
    with pytest.raises(TocsinError, match="TOCSIN_MAIL_FROM: must be one address"):
        email.ready()


@pytest.mark.parametrize(
    "setting", ["shop.example", "shop.example:s1", ":s1:/x", "shop.example:s1:", "shöp.example:s1:/x"]
)
def test_a_wrong_signature_is_said(configure: Configure, setting: str) -> None:
    configure(smtp_url="smtp://mail.example", dkim=setting)
    with pytest.raises(TocsinError, match="TOCSIN_DKIM: must be domain:selector"):
        email.ready()


def test_a_path_of_a_key_may_hold_colons(configure: Configure) -> None:
    configure(smtp_url="smtp://mail.example", dkim="shop.example:s1:/a:b/c.pem")
    assert email.ready()


def test_nothing_is_logged_of_whom_and_what(
    configure: Configure, send: Send, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for logger in ("mail.log", "mail.debug"):
        logging.getLogger(logger).propagate = False  # the test's own server
    script = once("rcpt", "550 5.1.1 <canary@example.com> unknown")
    with MailServer(script) as server:
        configure(server, smtp_url=f"smtp://127.0.0.1:{server.port}")
        send(
            parcel("canary@example.com", title="canary"),
            parcel("canary, x"),
            parcel("canary@example.com", data={}),
        )
        send(system("canary", "canary"))
        assert len(server.received) == 1
    logged = capfd.readouterr()
    assert "canary" not in caplog.text + logged.out + logged.err
