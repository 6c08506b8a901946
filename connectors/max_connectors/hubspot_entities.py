"""The entities of HubSpot, and where its answers have each field.

Everything that HubSpot calls a property is a text under ``properties``, and may be unset.
"""

from __future__ import annotations

from datetime import datetime

from max.connecting import Entity, Field, Json, Many, Ref

DEALS = {"open": "stage.closed = false", "won": "stage.probability = 1", "lost": "stage.probability = 0"}
TICKETS = {"open": "stage.state = OPEN", "closed": "stage.state = CLOSED"}
TASKS = {"open": "status NOT IN (COMPLETED, DEFERRED)"}


def full_name(row: Json) -> str | None:
    """First and last name, or else the address."""
    values = row["properties"]
    parts = [values.get(name) for name in ("firstname", "lastname")]
    return " ".join(filter(None, parts)) or values.get("email") or None


def owner_name(row: Json) -> str | None:
    """First and last name of an owner, or else the address."""
    return " ".join(filter(None, (row.get("firstName"), row.get("lastName")))) or row.get("email") or None


class HubSpotAccount(Entity):
    """The account of the credential, the root of everything else."""

    contacts: Many[HubSpotContact] = Many("people")
    companies: Many[HubSpotCompany] = Many("organisations")
    deals: Many[HubSpotDeal] = Many("sales, won, lost and under way")
    tickets: Many[HubSpotTicket] = Many("requests of customers")
    products: Many[HubSpotProduct] = Many("the catalogue of what is sold")
    line_items: Many[HubSpotLineItem] = Many("what each deal sells")
    notes: Many[HubSpotNote] = Many("notes on records")
    tasks: Many[HubSpotTask] = Many("what is to be done")
    calls: Many[HubSpotCall] = Many("calls that were made or logged")
    meetings: Many[HubSpotMeeting] = Many("meetings, planned and past")
    emails: Many[HubSpotEmail] = Many("emails that were sent or logged")
    owners: Many[HubSpotOwner] = Many("those to whom records are assigned, former ones included")
    deal_pipelines: Many[HubSpotDealPipeline] = Many("the pipelines of deals")
    deal_stages: Many[HubSpotDealStage] = Many("the stages of all those pipelines")
    ticket_pipelines: Many[HubSpotTicketPipeline] = Many("the pipelines of tickets")
    ticket_stages: Many[HubSpotTicketStage] = Many("the statuses of all those pipelines")
    associations: Many[HubSpotAssociation] = Many("what is linked with what")


class CrmRecord(Entity):
    """What every record of the CRM has."""

    owner: Field[Ref[HubSpotOwner] | None] = Field(
        "to whom it is assigned", source="properties.hubspot_owner_id", brief=True
    )
    created_at: Field[datetime] = Field("when it was created", source="createdAt")
    updated_at: Field[datetime] = Field("when a property of it last changed", source="updatedAt")


class HubSpotContact(CrmRecord, title="name"):
    """A person."""

    name: Field[str | None] = Field("first and last name, or the address", source=full_name, searchable=True)
    first_name: Field[str | None] = Field("the first name", source="properties.firstname")
    last_name: Field[str | None] = Field("the last name", source="properties.lastname")
    email: Field[str | None] = Field(
        "the main e-mail address", source="properties.email", searchable=True, brief=True
    )
    phone: Field[str | None] = Field("the telephone number", source="properties.phone")
    mobile: Field[str | None] = Field("the number of the mobile phone", source="properties.mobilephone")
    job_title: Field[str | None] = Field("the position", source="properties.jobtitle", searchable=True)
    company_name: Field[str | None] = Field(
        "the company as it was typed; associations have the record", source="properties.company"
    )
    lifecycle_stage: Field[str | None] = Field(
        "how far it is: subscriber, lead, opportunity, customer, …",
        source="properties.lifecyclestage",
        brief=True,
    )
    lead_status: Field[str | None] = Field("where work on the lead is", source="properties.hs_lead_status")
    website: Field[str | None] = Field("the web site", source="properties.website")
    city: Field[str | None] = Field("the city", source="properties.city")
    country: Field[str | None] = Field("the country", source="properties.country")
    last_contacted_at: Field[datetime | None] = Field(
        "when an activity with it was last logged", source="properties.notes_last_contacted"
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.contact)


class HubSpotCompany(CrmRecord, title="name"):
    """An organisation."""

    name: Field[str | None] = Field("the company's name", source="properties.name", searchable=True)
    domain: Field[str | None] = Field(
        "the domain of its web site", source="properties.domain", searchable=True, brief=True
    )
    industry: Field[str | None] = Field("its industry", source="properties.industry", brief=True)
    description: Field[str | None] = Field("what it does", source="properties.description", searchable=True)
    phone: Field[str | None] = Field("the telephone number", source="properties.phone")
    city: Field[str | None] = Field("the city", source="properties.city")
    country: Field[str | None] = Field("the country", source="properties.country")
    annual_revenue: Field[float | None] = Field(
        "revenue of a year, in the account's currency", source="properties.annualrevenue"
    )
    employees: Field[float | None] = Field("number of its employees", source="properties.numberofemployees")
    lifecycle_stage: Field[str | None] = Field(
        "how far it is: lead, opportunity, customer, …", source="properties.lifecyclestage", brief=True
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.company)


class HubSpotDeal(CrmRecord, title="name", conventions=DEALS):
    """A sale, won, lost or under way."""

    name: Field[str | None] = Field("the deal's name", source="properties.dealname", searchable=True)
    amount: Field[float | None] = Field(
        "its worth, in its own currency", source="properties.amount", brief=True
    )
    currency: Field[str | None] = Field(
        "code of the currency, if the account has several", source="properties.deal_currency_code"
    )
    pipeline: Field[Ref[HubSpotDealPipeline] | None] = Field(
        "the pipeline that it goes through", source="properties.pipeline"
    )
    stage: Field[Ref[HubSpotDealStage] | None] = Field(
        "the stage that it has reached", source="properties.dealstage", brief=True
    )
    closes_at: Field[datetime | None] = Field(
        "when it was closed, or is expected to be", source="properties.closedate", brief=True
    )
    type: Field[str | None] = Field("new or existing business", source="properties.dealtype")
    priority: Field[str | None] = Field("low, medium or high", source="properties.hs_priority")
    description: Field[str | None] = Field(
        "what it is about", source="properties.description", searchable=True
    )
    lost_reason: Field[str | None] = Field(
        "why it was lost", source="properties.closed_lost_reason", searchable=True
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.deal)


class HubSpotTicket(CrmRecord, title="subject", conventions=TICKETS):
    """A request of a customer."""

    subject: Field[str | None] = Field("what it is about", source="properties.subject", searchable=True)
    content: Field[str | None] = Field("the request", source="properties.content", searchable=True)
    pipeline: Field[Ref[HubSpotTicketPipeline] | None] = Field(
        "the pipeline that it goes through", source="properties.hs_pipeline"
    )
    stage: Field[Ref[HubSpotTicketStage] | None] = Field(
        "its status", source="properties.hs_pipeline_stage", brief=True
    )
    priority: Field[str | None] = Field(
        "LOW, MEDIUM, HIGH or URGENT", source="properties.hs_ticket_priority", brief=True
    )
    category: Field[str | None] = Field("kind of request", source="properties.hs_ticket_category")
    origin: Field[str | None] = Field("EMAIL, CHAT, FORM or PHONE", source="properties.source_type")
    closed_at: Field[datetime | None] = Field("when it was closed", source="properties.closed_date")
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.ticket)


class HubSpotProduct(CrmRecord, title="name"):
    """Something that is sold."""

    name: Field[str | None] = Field("the product's name", source="properties.name", searchable=True)
    sku: Field[str | None] = Field(
        "the number by which it is stocked", source="properties.hs_sku", searchable=True, brief=True
    )
    price: Field[float | None] = Field("price of a unit", source="properties.price", brief=True)
    cost: Field[float | None] = Field("what a unit costs", source="properties.hs_cost_of_goods_sold")
    description: Field[str | None] = Field("what it is", source="properties.description", searchable=True)


class HubSpotLineItem(CrmRecord, title="name"):
    """A quantity of a product in a deal."""

    name: Field[str | None] = Field("the product's name here", source="properties.name", searchable=True)
    product: Field[Ref[HubSpotProduct] | None] = Field(
        "the product", source="properties.hs_product_id", brief=True
    )
    quantity: Field[float | None] = Field("how many units", source="properties.quantity", brief=True)
    price: Field[float | None] = Field("price of a unit", source="properties.price", brief=True)
    amount: Field[float | None] = Field(
        "price of all, with discounts", source="properties.amount", brief=True
    )
    discount: Field[float | None] = Field("discount on a unit", source="properties.discount")
    currency: Field[str | None] = Field(
        "code of the currency", source="properties.hs_line_item_currency_code"
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.line_item)


class Activity(CrmRecord):
    """What every activity has."""

    at: Field[datetime | None] = Field(
        "when it happened, or is due", source="properties.hs_timestamp", brief=True
    )


class HubSpotNote(Activity, title="body"):
    """A note on one record or several."""

    body: Field[str | None] = Field("the note, as HTML", source="properties.hs_note_body", searchable=True)
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.note)


class HubSpotTask(Activity, title="subject", conventions=TASKS):
    """Something that is to be done."""

    subject: Field[str | None] = Field(
        "what is to be done", source="properties.hs_task_subject", searchable=True
    )
    body: Field[str | None] = Field("its notes, as HTML", source="properties.hs_task_body", searchable=True)
    status: Field[str | None] = Field(
        "NOT_STARTED, IN_PROGRESS, WAITING, COMPLETED or DEFERRED",
        source="properties.hs_task_status",
        brief=True,
    )
    priority: Field[str | None] = Field("LOW, MEDIUM or HIGH", source="properties.hs_task_priority")
    type: Field[str | None] = Field("TODO, CALL or EMAIL", source="properties.hs_task_type")
    completed_at: Field[datetime | None] = Field(
        "when it was done", source="properties.hs_task_completion_date"
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.task)


class HubSpotCall(Activity, title="subject"):
    """A call that was made or logged."""

    subject: Field[str | None] = Field(
        "what it was about", source="properties.hs_call_title", searchable=True
    )
    body: Field[str | None] = Field("notes on it, as HTML", source="properties.hs_call_body", searchable=True)
    direction: Field[str | None] = Field(
        "INBOUND or OUTBOUND", source="properties.hs_call_direction", brief=True
    )
    status: Field[str | None] = Field(
        "COMPLETED, NO_ANSWER, BUSY, …", source="properties.hs_call_status", brief=True
    )
    outcome: Field[str | None] = Field("id of its outcome", source="properties.hs_call_disposition")
    milliseconds: Field[float | None] = Field("how long it took", source="properties.hs_call_duration")
    from_number: Field[str | None] = Field("who called", source="properties.hs_call_from_number")
    to_number: Field[str | None] = Field("who was called", source="properties.hs_call_to_number")
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.call)


class HubSpotMeeting(Activity, title="subject"):
    """A meeting, planned or past."""

    subject: Field[str | None] = Field(
        "what it is about", source="properties.hs_meeting_title", searchable=True
    )
    body: Field[str | None] = Field(
        "its description, as HTML", source="properties.hs_meeting_body", searchable=True
    )
    starts_at: Field[datetime | None] = Field("when it starts", source="properties.hs_meeting_start_time")
    ends_at: Field[datetime | None] = Field("when it ends", source="properties.hs_meeting_end_time")
    location: Field[str | None] = Field("where it is", source="properties.hs_meeting_location")
    outcome: Field[str | None] = Field(
        "SCHEDULED, COMPLETED, NO_SHOW, …", source="properties.hs_meeting_outcome", brief=True
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.meeting)


class HubSpotEmail(Activity, title="subject"):
    """An email that was sent or logged."""

    subject: Field[str | None] = Field("its subject", source="properties.hs_email_subject", searchable=True)
    text: Field[str | None] = Field("its plain text", source="properties.hs_email_text", searchable=True)
    direction: Field[str | None] = Field(
        "EMAIL (sent), INCOMING_EMAIL or FORWARDED_EMAIL", source="properties.hs_email_direction", brief=True
    )
    status: Field[str | None] = Field("SENT, BOUNCED, FAILED, …", source="properties.hs_email_status")
    from_email: Field[str | None] = Field(
        "the sender's address", source="properties.hs_email_from_email", searchable=True
    )
    to_email: Field[str | None] = Field(
        "the recipients' addresses", source="properties.hs_email_to_email", searchable=True, brief=True
    )
    associations: Many[HubSpotAssociation] = Many("its links", by=lambda: HubSpotAssociation.email)


class HubSpotOwner(Entity, title="name"):
    """A user or a queue to whom records are assigned."""

    name: Field[str | None] = Field("first and last name, or the address", source=owner_name, searchable=True)
    email: Field[str | None] = Field("e-mail address", source="email", searchable=True, brief=True)
    type: Field[str | None] = Field("PERSON or QUEUE", source="type")
    user_id: Field[int | None] = Field("the user's number, another one than the id", source="userId")
    archived: Field[bool] = Field("true once the user has left", source="archived", brief=True)
    created_at: Field[datetime] = Field("when it was created", source="createdAt")
    updated_at: Field[datetime] = Field("when it last changed", source="updatedAt")


class Pipeline(Entity):
    """What every pipeline has."""

    label: Field[str] = Field("its name", source="label", searchable=True)
    position: Field[int] = Field("position among the pipelines", source="displayOrder")
    archived: Field[bool] = Field("whether it is in use no more", source="archived")
    created_at: Field[datetime] = Field("when it was created", source="createdAt")
    updated_at: Field[datetime] = Field("when it last changed", source="updatedAt")


class HubSpotDealPipeline(Pipeline, title="label"):
    """The stages that a deal goes through."""


class HubSpotTicketPipeline(Pipeline, title="label"):
    """The statuses that a ticket goes through."""


class HubSpotDealStage(Pipeline, title="label"):
    """A stage of a pipeline of deals."""

    pipeline: Field[Ref[HubSpotDealPipeline]] = Field("its pipeline", source="pipeline", brief=True)
    closed: Field[bool | None] = Field(
        "whether deals there are closed", source="metadata.isClosed", brief=True
    )
    probability: Field[float | None] = Field(
        "how likely such a deal is won, 0 to 1", source="metadata.probability", brief=True
    )


class HubSpotTicketStage(Pipeline, title="label"):
    """A status of a pipeline of tickets."""

    pipeline: Field[Ref[HubSpotTicketPipeline]] = Field("its pipeline", source="pipeline", brief=True)
    state: Field[str | None] = Field("OPEN or CLOSED", source="metadata.ticketState", brief=True)


class HubSpotAssociation(Entity):
    """A link between two records; two of its refs are set, the others are empty."""

    contact: Field[Ref[HubSpotContact] | None] = Field("the contact, if it links one", brief=True)
    company: Field[Ref[HubSpotCompany] | None] = Field("the company", brief=True)
    deal: Field[Ref[HubSpotDeal] | None] = Field("the deal", brief=True)
    ticket: Field[Ref[HubSpotTicket] | None] = Field("the ticket", brief=True)
    line_item: Field[Ref[HubSpotLineItem] | None] = Field("the line item")
    note: Field[Ref[HubSpotNote] | None] = Field("the note")
    task: Field[Ref[HubSpotTask] | None] = Field("the task")
    call: Field[Ref[HubSpotCall] | None] = Field("the call")
    meeting: Field[Ref[HubSpotMeeting] | None] = Field("the meeting")
    email: Field[Ref[HubSpotEmail] | None] = Field("the email")
    labels: Field[list[str]] = Field("what the link means: Primary, Billing contact, …", brief=True)
    type_ids: Field[list[int]] = Field("HubSpot's numbers of the types of the link")
