"""Telling by e-mail: SMTP (RFC 5321) with TLS (RFC 3207, RFC 8314)."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

from medpipe.config import Mail
from medpipe.logs import Event, about
from workers.alerts.channels import ChannelFailed, revealed
from workers.alerts.message import Message

log = logging.getLogger(__name__)

_SECONDS = 20.0


class MailChannel:
    """One server, one message to all recipients."""

    def __init__(self, settings: Mail, environment: Mapping[str, str]) -> None:
        self._settings, self._environment = settings, environment

    @property
    def name(self) -> str:
        return f"mail {self._settings.host}"

    def send(self, message: Message) -> None:
        password = revealed(self._settings, "alerts.mail", "password", self._environment)
        try:
            with self._connected() as server:
                if self._settings.user:
                    server.login(self._settings.user, password)
                refused = server.send_message(self._letter(message))
        except smtplib.SMTPResponseException as error:  # its text may repeat what we said
            raise ChannelFailed(f"{self.name} refuses it (SMTP {error.smtp_code})") from None
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelFailed(f"{self.name} does not take it ({type(error).__name__})") from None
        if refused:  # the others have it: no reason to try again
            log.warning(
                "%s refuses %d of alerts.mail.to", self.name, len(refused), extra=about(Event.ALERT_NOT_SENT)
            )

    def _connected(self) -> smtplib.SMTP:
        host, port, trust = self._settings.host, self._settings.port, self._trust()
        if self._settings.security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=trust)
        server = smtplib.SMTP(host, port, timeout=_SECONDS)
        if self._settings.security == "starttls":
            try:
                server.starttls(context=trust)
            except BaseException:
                server.close()
                raise
        return server

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca)
        except OSError as error:
            raise ChannelFailed(f"alerts.mail.ca: {self._settings.ca} cannot be used") from error

    def _letter(self, message: Message) -> EmailMessage:
        letter = EmailMessage()
        letter["From"], letter["To"] = self._settings.sender, ", ".join(self._settings.to)
        letter["Subject"] = message.subject
        letter["Date"] = format_datetime(datetime.fromtimestamp(message.at, UTC))
        letter["Message-ID"] = make_msgid(domain=self._settings.sender.partition("@")[2])
        letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        letter.set_content(message.text)
        return letter
