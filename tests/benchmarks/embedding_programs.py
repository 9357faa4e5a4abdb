"""What the peers of the embeddings' benchmark run, each in its own environment: one program, one refresh.

Each is called with a JSON object: ``url`` of an empty database with pgvector, ``folder`` of Markdown files, ``state``
(a folder that it may keep), ``first`` (whether the tables are to be made) and ``tries``. It prints a list with wall
seconds, CPU seconds and texts embedded of each try. Imports and the making of tables are not counted. All cut a file
at its headings, and all get the same vector at once.
"""

from __future__ import annotations

_FRAME = """
import asyncio, json, os, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"
task = json.loads(sys.argv[1])
folder, url = Path(task["folder"]), task["url"]
VECTOR = [0.05] * 384
embedded = 0

def parts(text):
    pieces = text.split("\\n## ")
    return pieces[:1] + ["## " + piece for piece in pieces[1:]]

def measured(refresh):
    global embedded
    found = []
    for _ in range(task["tries"]):
        embedded = 0
        wall, cpu = time.perf_counter(), time.process_time()
        refresh()
        found.append([time.perf_counter() - wall, time.process_time() - cpu, embedded])
    sys.stdout.write(json.dumps(found) + "\\n")
"""

COCOINDEX = (
    _FRAME
    + """
from dataclasses import dataclass
from typing import Annotated
import asyncpg, numpy as np
import cocoindex as coco
from cocoindex.connectors import localfs, postgres
from cocoindex.resources.id import IdGenerator
from cocoindex.resources.schema import VectorSchema
from numpy.typing import NDArray

POOL = coco.ContextKey("pool")
ARRAY = np.array(VECTOR, dtype=np.float32)

@dataclass
class Row:
    id: int
    key: str
    content: str
    embedding: Annotated[NDArray, VectorSchema(dtype=np.dtype("float32"), size=384)]

@coco.lifespan
async def lifespan(builder):
    builder.settings.db_path = Path(task["state"]) / "cocoindex"
    async with asyncpg.create_pool(url) as pool:
        builder.provide(POOL, pool)
        yield

@coco.fn(memo=True)
async def embed(text: str) -> Annotated[NDArray, VectorSchema(dtype=np.dtype("float32"), size=384)]:
    global embedded
    embedded += 1
    return ARRAY

@coco.fn(memo=True)
async def process(file, table):
    ids = IdGenerator()
    for part in parts(await file.read_text()):
        table.declare_row(row=Row(await ids.next_id(part), file.file_path.path.name, part, await embed(part)))

@coco.fn
async def everything():
    schema = await postgres.TableSchema.from_class(Row, primary_key=["id"])
    table = await postgres.mount_table_target(POOL, table_name="rows", table_schema=schema)
    await coco.mount_each(process, localfs.walk_dir(folder).items(), table)

app = coco.App(coco.AppConfig(name="bench"), everything)
measured(app.update_blocking)
"""
)

LANGCHAIN = (
    _FRAME
    + """
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_postgres import Column, PGEngine, PGVectorStore

class Instant(Embeddings):
    def embed_documents(self, texts):
        global embedded
        embedded += len(texts)
        return [VECTOR] * len(texts)

    def embed_query(self, text):
        return VECTOR

plain = url.replace("postgresql://", "postgresql+psycopg://")
engine = PGEngine.from_connection_string(plain)
records = SQLRecordManager("bench", db_url=plain)
if task["first"]:
    engine.init_vectorstore_table("vs", 384, id_column=Column("langchain_id", "TEXT", False))
    records.create_schema()
store = PGVectorStore.create_sync(engine, embedding_service=Instant(), table_name="vs")

def refresh():
    documents = [
        Document(part, metadata={"source": path.name})
        for path in sorted(folder.glob("*.md"))
        for part in parts(path.read_text())
    ]
    index(documents, records, store, cleanup="full", source_id_key="source", key_encoder="blake2b")

measured(refresh)
"""
)

LLAMAINDEX = (
    _FRAME
    + """
from urllib.parse import urlsplit
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import Document, TextNode, TransformComponent, NodeRelationship
from llama_index.storage.docstore.postgres import PostgresDocumentStore
from llama_index.storage.kvstore.postgres import PostgresKVStore
from llama_index.vector_stores.postgres import PGVectorStore

class Instant(BaseEmbedding):
    def _get_text_embedding(self, text):
        global embedded
        embedded += 1
        return VECTOR

    def _get_query_embedding(self, query):
        return VECTOR

    async def _aget_query_embedding(self, query):
        return VECTOR

class Parts(TransformComponent):
    def __call__(self, nodes, **kwargs):
        return [
            TextNode(text=part, relationships={NodeRelationship.SOURCE: node.as_related_node_info()})
            for node in nodes
            for part in parts(node.text)
        ]

urls = {
    "connection_string": url.replace("postgresql://", "postgresql+psycopg2://"),
    "async_connection_string": url.replace("postgresql://", "postgresql+asyncpg://"),
}
vectors = PGVectorStore(**urls, table_name="vs", schema_name="public", embed_dim=384)
kept = PostgresDocumentStore(PostgresKVStore(table_name="docstore", schema_name="public", use_jsonb=True, **urls))
pipeline = IngestionPipeline(
    transformations=[Parts(), Instant()], docstore=kept, vector_store=vectors,
    docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE, disable_cache=True,
)

def refresh():
    documents = [Document(text=path.read_text(), id_=path.name) for path in sorted(folder.glob("*.md"))]
    pipeline.run(documents=documents)

measured(refresh)
"""
)
