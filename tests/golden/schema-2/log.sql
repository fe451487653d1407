BEGIN TRANSACTION;
CREATE TABLE "adapters" (
	task VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	run_id VARCHAR NOT NULL, 
	artifact VARCHAR NOT NULL, 
	control VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	base_digest VARCHAR NOT NULL, 
	quantisation VARCHAR NOT NULL, 
	prompt VARCHAR NOT NULL, 
	temperature FLOAT NOT NULL, 
	status VARCHAR NOT NULL, 
	registered_at VARCHAR NOT NULL, 
	PRIMARY KEY (task, name)
);
INSERT INTO "adapters" VALUES('tickets','tickets-v1',20,'tickets-run-1','sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1','sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060','qlora','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4','zero-shot@1',1.2,'retired','2026-01-05T09:20:00.000000+00:00');
INSERT INTO "adapters" VALUES('tickets','tickets-v2',29,'tickets-run-2','sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee','sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354','qlora','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4','zero-shot@1',1.2,'rejected','2026-01-05T09:29:00.000000+00:00');
CREATE TABLE "counters" (
	task VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (task, name, "key")
);
INSERT INTO "counters" VALUES('tickets','received','exam',2);
INSERT INTO "counters" VALUES('tickets','received','train',7);
INSERT INTO "counters" VALUES('tickets','answered','general',9);
INSERT INTO "counters" VALUES('tickets','queue','train',3);
INSERT INTO "counters" VALUES('tickets','open','misclassified',1);
INSERT INTO "counters" VALUES('tickets','queue','exam',1);
INSERT INTO "counters" VALUES('tickets','open','uncertain',3);
INSERT INTO "counters" VALUES('tickets','labelled','billing',1);
INSERT INTO "counters" VALUES('tickets','exam_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','labelled','urgent',0);
INSERT INTO "counters" VALUES('tickets','train_labels','billing',1);
INSERT INTO "counters" VALUES('tickets','audit_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','disagreed','general',1);
CREATE TABLE cursors (
                name TEXT PRIMARY KEY,
                position INTEGER NOT NULL,
                version INTEGER NOT NULL
            );
INSERT INTO "cursors" VALUES('read-tables',39,2);
CREATE TABLE "deployments" (
	task VARCHAR NOT NULL, 
	answerer VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	previous VARCHAR NOT NULL, 
	artifact VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	forced BOOLEAN NOT NULL, 
	reason VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	at VARCHAR NOT NULL, 
	PRIMARY KEY (task)
);
INSERT INTO "deployments" VALUES('tickets','zero-shot@1','prompt','tickets-v1','','',0,'worse',38,'2026-01-05T09:05:00.000000+00:00');
CREATE TABLE "evaluations" (
	evaluation_id VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	candidate VARCHAR NOT NULL, 
	champion VARCHAR NOT NULL, 
	baseline VARCHAR NOT NULL, 
	exam INTEGER NOT NULL, 
	hard_exam INTEGER NOT NULL, 
	look INTEGER NOT NULL, 
	artifact VARCHAR NOT NULL, 
	results JSON NOT NULL, 
	paired JSON NOT NULL, 
	forgetting JSON, 
	verdict VARCHAR NOT NULL, 
	checks JSON NOT NULL, 
	summary VARCHAR NOT NULL, 
	seconds FLOAT NOT NULL, 
	reason VARCHAR NOT NULL, 
	started_at VARCHAR, 
	ended_at VARCHAR, 
	PRIMARY KEY (evaluation_id)
);
INSERT INTO "evaluations" VALUES('tickets-v2-look-1','tickets-run-2','tickets',30,'evaluated',1,'tickets-v2','tickets-v1','zero-shot@1',40,6,1,'sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354','[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}}]','[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}]',NULL,'reject','[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3,"limit":null}]','tickets-v2 gains 30 points over zero-shot@1',12.0,'','2026-01-05T09:30:00.000000+00:00','2026-01-05T09:31:00.000000+00:00');
INSERT INTO "evaluations" VALUES('tickets-v1-look-1','tickets-run-1','tickets',21,'evaluated',1,'tickets-v1','zero-shot@1','zero-shot@1',40,6,1,'sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060','[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3,"support":{}}]','[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}]',NULL,'promote','[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3,"limit":null}]','tickets-v1 gains 30 points over zero-shot@1',12.0,'','2026-01-05T09:21:00.000000+00:00','2026-01-05T09:22:00.000000+00:00');
CREATE TABLE events (
                position INTEGER PRIMARY KEY AUTOINCREMENT,
                event_id TEXT NOT NULL UNIQUE,
                stream TEXT NOT NULL,
                version INTEGER NOT NULL,
                type TEXT NOT NULL,
                schema_version INTEGER NOT NULL,
                recorded_at TEXT NOT NULL,
                actor TEXT NOT NULL,
                correlation_id TEXT NOT NULL,
                causation_id TEXT NOT NULL,
                epoch INTEGER NOT NULL,
                payload TEXT NOT NULL,
                prev_hash BLOB NOT NULL,
                hash BLOB NOT NULL,
                UNIQUE (stream, version)
            );
INSERT INTO "events" VALUES(1,'01a20e86-8a1a-71a1-adac-06d39fce6769','record/rec-001',1,'RecordReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","text_digest":"7dc15adae10c371d1a4275e545a325e64fd62da3c613fc3acc6a99fbdb3b4ae3","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-001","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'0000000000000000000000000000000000000000000000000000000000000000',X'83055740CD53D167FB5F11E363D5AC045E4A3A85B25AD758AF01380AEC630552');
INSERT INTO "events" VALUES(2,'01a20e86-8a27-7231-ad0e-dbb115f82d57','record/rec-002',1,'RecordReceived',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-002","text_digest":"e487eb19fb29c8891bf212d798e6b69d34ada2ea3d456054c4d7699555c41c1b","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-002","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'83055740CD53D167FB5F11E363D5AC045E4A3A85B25AD758AF01380AEC630552',X'C7B65B39BE3F4B0BCF002C1CBB4263EFC71EAAEDDFF69BFC242BA72C90E1FA3A');
INSERT INTO "events" VALUES(3,'01a20e86-8a2b-7029-8e05-b77b056977ad','record/rec-003',1,'RecordReceived',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-003","text_digest":"593f39d72132b6d80fc53bf870c10074575bfd82a39ceac60b5b29303ed77a75","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-003","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'C7B65B39BE3F4B0BCF002C1CBB4263EFC71EAAEDDFF69BFC242BA72C90E1FA3A',X'DA9BBE135CE68678050771E139AF31BA5B35BE2BC979155DE0205E7427C20EFD');
INSERT INTO "events" VALUES(4,'01a20e86-8a33-70ee-b698-a017571f474e','record/rec-004',1,'RecordReceived',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","text_digest":"1c646cea27bd5e3d7c4773e2f921f239e48f82798bf232ba7d4e0201e65a77f8","chars":27,"source":"inbox","side":"exam","audit":true,"audit_probability":0.3,"cluster":"rec-004","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'DA9BBE135CE68678050771E139AF31BA5B35BE2BC979155DE0205E7427C20EFD',X'39F923AC55AA02388D6D529DE432B570267A62572E263E82B5B90F78A5D6D538');
INSERT INTO "events" VALUES(5,'01a20e86-8a36-7165-8b1f-e2f2ab5821e4','record/rec-005',1,'RecordReceived',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-005","text_digest":"c2139168c9bc21bd88722bb545a0b70e67b9bfbd42a6c5685d3eed29cbdbb6d6","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-005","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'39F923AC55AA02388D6D529DE432B570267A62572E263E82B5B90F78A5D6D538',X'78461E368B7D0F6F310CA77E2F0C526EABAF84E4A085074CCEDDC1F053A8FE9D');
INSERT INTO "events" VALUES(6,'01a20e86-8a36-7012-be82-5e61f218d7c7','record/rec-006',1,'RecordReceived',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-006","text_digest":"95a68c5eee1cccdaa7569aaae614b57d595d6f7efa60862ac671f2d614501899","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-006","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'78461E368B7D0F6F310CA77E2F0C526EABAF84E4A085074CCEDDC1F053A8FE9D',X'708C003E9CB9AC02876BAFD89D830ACA9864B4C0D49E53AA73CE6E974EC7905E');
INSERT INTO "events" VALUES(7,'01a20e86-8a37-7108-8fbe-27dbdcc84f98','record/rec-007',1,'RecordReceived',1,'2026-01-05T09:07:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-007","text_digest":"4774fb3ea88c26e179819e90b4644bf504e8b2a4cb560cd6dc56d02feeebcc85","chars":27,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-007","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'708C003E9CB9AC02876BAFD89D830ACA9864B4C0D49E53AA73CE6E974EC7905E',X'B3DF101A2BA16ED400DCF144CAE955495B40C632E5B8A26741F9F9C3A5FD0909');
INSERT INTO "events" VALUES(8,'01a20e86-8a37-73ed-a338-df747a7fda13','record/rec-008',1,'RecordReceived',1,'2026-01-05T09:08:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-008","text_digest":"60284fe1e909f2df8b17690419966a07c7afdc8f50b856c7f2189e80eabf7559","chars":27,"source":"inbox","side":"exam","audit":true,"audit_probability":0.3,"cluster":"rec-008","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'B3DF101A2BA16ED400DCF144CAE955495B40C632E5B8A26741F9F9C3A5FD0909',X'613C51D60697F04B33B7FC8BFEFBFA82495793DD16094C93E3F3FADF6444887C');
INSERT INTO "events" VALUES(9,'01a20e86-8a37-7357-96ef-47a2ba0f5538','record/rec-evil',1,'RecordReceived',1,'2026-01-05T09:09:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-evil","text_digest":"ff938a4ccba9a7d67c7d7bdde8c2b5fc96b7c096ccaaac066ed6ff65c81a4f3a","chars":41,"source":"inbox","side":"train","audit":false,"audit_probability":0.3,"cluster":"rec-evil","answer":"general","answered_by":"zero-shot@1","confidence":0.61,"margin":0.2}',X'613C51D60697F04B33B7FC8BFEFBFA82495793DD16094C93E3F3FADF6444887C',X'CF3D8D0133FF41600DFD8019B86FA7611D02B772E26E2EAA9FF7C332BC0BE23B');
INSERT INTO "events" VALUES(10,'01a20e86-8a38-7322-857a-a6e2299d73fd','task/tickets',1,'PromptAdopted',1,'2026-01-05T09:10:00.000000+00:00','daemon','','',0,'{"task":"tickets","prompt":"zero-shot@1","digest":"dddddddd","scores":[{"prompt":"zero-shot@1","correct":30,"n":60,"abstained":2,"seconds":4.0}],"reason":"the best"}',X'CF3D8D0133FF41600DFD8019B86FA7611D02B772E26E2EAA9FF7C332BC0BE23B',X'62BE4C5EC82CCEF827D6BBFFCAFBACBED3918F5BE198B65944DD5BAA1A09C54D');
INSERT INTO "events" VALUES(11,'01a20e86-8a38-734c-91d9-80409e5aba88','record/rec-001',2,'ReviewRequested',1,'2026-01-05T09:11:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","side":"train","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":9.0}',X'62BE4C5EC82CCEF827D6BBFFCAFBACBED3918F5BE198B65944DD5BAA1A09C54D',X'FE260E623456D27C608430FECAEC62BB2685AAB2419D28828230D81247C8BA32');
INSERT INTO "events" VALUES(12,'01a20e86-8a38-7027-b2dd-dd9d479f34be','record/rec-002',2,'ReviewRequested',1,'2026-01-05T09:12:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-002","side":"train","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":8.0}',X'FE260E623456D27C608430FECAEC62BB2685AAB2419D28828230D81247C8BA32',X'D29D5D8F89767CFF790A3EBE962173A7856712B063AF213FB2F5CD324EC5332E');
INSERT INTO "events" VALUES(13,'01a20e86-8a39-72a3-a6ee-4a79a415c9c0','record/rec-003',2,'ReviewRequested',1,'2026-01-05T09:13:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-003","side":"train","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":7.0}',X'D29D5D8F89767CFF790A3EBE962173A7856712B063AF213FB2F5CD324EC5332E',X'93CC4BDF6EDE53CF4C94ADBC2987AB2C5B3049F970072E3C85E5BB31A24B459C');
INSERT INTO "events" VALUES(14,'01a20e86-8a39-7204-9928-4e4c90bbc95e','record/rec-004',2,'ReviewRequested',1,'2026-01-05T09:14:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","side":"exam","reasons":[{"name":"uncertain","detail":"margin 0.20","score":0.2}],"priority":6.0}',X'93CC4BDF6EDE53CF4C94ADBC2987AB2C5B3049F970072E3C85E5BB31A24B459C',X'F85896A439034FE9D36FAB4BEC8AA1C362843E427CC542627D5229DE3D3F571A');
INSERT INTO "events" VALUES(15,'01a20e86-8a39-7043-b120-09a67ee9c297','record/rec-evil',2,'ReviewRequested',1,'2026-01-05T09:15:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-evil","side":"train","reasons":[{"name":"misclassified","detail":"margin 0.20","score":0.2}],"priority":0.1}',X'F85896A439034FE9D36FAB4BEC8AA1C362843E427CC542627D5229DE3D3F571A',X'E856C865EF02A99B666D0201314AB88B4050B1091A8F7108ADDF5D302CE726FD');
INSERT INTO "events" VALUES(16,'01a20e86-8a40-7036-9df9-3909cd0fc03f','run/tickets-run-1',1,'DatasetFrozen',1,'2026-01-05T09:16:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","artifact":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","up_to":15,"labels_train":50,"train":42,"valid":8,"exam":40,"hard_exam":6,"per_class":{"billing":20,"general":22},"curation":[{"step":"near-duplicates","count":2,"detail":"removed"}],"warnings":["urgent has 1 example"],"trigger":"50 labels"}',X'E856C865EF02A99B666D0201314AB88B4050B1091A8F7108ADDF5D302CE726FD',X'98CD14D7F6C8CDE2EFC83B4BAF769404447F5AA0CDD834FC0A0B69D49DDD1B07');
INSERT INTO "events" VALUES(17,'01a20e86-8a40-71ef-9f3e-84052a0ac631','run/tickets-run-1',2,'TrainingStarted',1,'2026-01-05T09:17:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","attempt":1,"adapter":"tickets-v1","method":"qlora","base_model":"SmolLM2","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","seed":1,"hyperparameters":{"rank":16,"learning_rate":0.0002}}',X'98CD14D7F6C8CDE2EFC83B4BAF769404447F5AA0CDD834FC0A0B69D49DDD1B07',X'2F9E46F14A67552A6D07388C3B2E2717425CDF7FEF724601B362F0E593DB7914');
INSERT INTO "events" VALUES(18,'01a20e86-8a40-721f-9357-f032c1236ec4','run/tickets-run-1',3,'TrainingProgressed',1,'2026-01-05T09:18:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","step":30,"of":60,"loss":1.5}',X'2F9E46F14A67552A6D07388C3B2E2717425CDF7FEF724601B362F0E593DB7914',X'6EF4C2CD685132C4DCAA49DDCD547BFE04174953E6A861536B909D06E2F2C391');
INSERT INTO "events" VALUES(19,'01a20e86-8a41-7103-a9e5-487c724308cb','run/tickets-run-1',4,'TrainingSucceeded',1,'2026-01-05T09:19:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","steps":60,"epochs":3.0,"seconds":41.0,"train_loss":0.9,"eval_accuracy":0.75,"temperature":1.2,"peak_memory_mb":900.0,"stopped":"steps"}',X'6EF4C2CD685132C4DCAA49DDCD547BFE04174953E6A861536B909D06E2F2C391',X'67D6EBD634C3DD3B50022A9C289A3AAE12628B9DB6109F84D9E1277AE10E368D');
INSERT INTO "events" VALUES(20,'01a20e86-8a41-71c6-b543-676c0347450d','run/tickets-run-1',5,'AdapterRegistered',1,'2026-01-05T09:20:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","adapter":"tickets-v1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","control":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","method":"qlora","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","temperature":1.2}',X'67D6EBD634C3DD3B50022A9C289A3AAE12628B9DB6109F84D9E1277AE10E368D',X'1E53D2C157295145EA1770152940A88C6B835938F6F713B3180F847A42DDDD0A');
INSERT INTO "events" VALUES(21,'01a20e86-8a41-73d1-87c3-b6360d2b049c','run/tickets-run-1',6,'EvaluationStarted',1,'2026-01-05T09:21:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","attempt":1,"candidate":"tickets-v1","champion":"zero-shot@1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'1E53D2C157295145EA1770152940A88C6B835938F6F713B3180F847A42DDDD0A',X'68C50A595FD60AD1BD96FB7FB78BC91FA8D99F080E79B6C2EB4943BC946C8234');
INSERT INTO "events" VALUES(22,'01a20e86-8a43-736e-8349-41a93fd836d2','run/tickets-run-1',7,'EvaluationSucceeded',1,'2026-01-05T09:22:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","artifact":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'68C50A595FD60AD1BD96FB7FB78BC91FA8D99F080E79B6C2EB4943BC946C8234',X'0D37B740180F47C7327E85C5644A576C6B6B089B8FFBCC17B9D1E3BC56CFD3F4');
INSERT INTO "events" VALUES(23,'01a20e86-8a43-7135-b855-8c9d2b165c43','run/tickets-run-1',8,'CandidateJudged',1,'2026-01-05T09:23:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","candidate":"tickets-v1","champion":"zero-shot@1","verdict":"promote","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v1 gains 30 points over zero-shot@1"}',X'0D37B740180F47C7327E85C5644A576C6B6B089B8FFBCC17B9D1E3BC56CFD3F4',X'6AF220C5866D700D57831BEB89C2A2551D89C8072E013BD3DCCF62A2E3246381');
INSERT INTO "events" VALUES(24,'01a20e86-8a43-72e8-94c1-082b76951868','deployment/tickets',1,'AdapterPromoted',1,'2026-01-05T09:24:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"tickets-v1","kind":"adapter","previous":"zero-shot@1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","run_id":"tickets-run-1","gain":0.3}',X'6AF220C5866D700D57831BEB89C2A2551D89C8072E013BD3DCCF62A2E3246381',X'BE5255D197D49A74DB7556DBE2E76424D3D9CB5ECAC66E390E7734B4C711165D');
INSERT INTO "events" VALUES(25,'01a20e86-8a4f-7378-9c30-72090a3c8072','run/tickets-run-2',1,'DatasetFrozen',1,'2026-01-05T09:25:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","up_to":24,"labels_train":50,"train":42,"valid":8,"exam":40,"hard_exam":6,"per_class":{"billing":20,"general":22},"curation":[{"step":"near-duplicates","count":2,"detail":"removed"}],"warnings":["urgent has 1 example"],"trigger":"50 labels"}',X'BE5255D197D49A74DB7556DBE2E76424D3D9CB5ECAC66E390E7734B4C711165D',X'1B126EED774342022AB16523C67ECFC3677725846839ACC64203550E806118AC');
INSERT INTO "events" VALUES(26,'01a20e86-8a50-72b4-a328-9c72e18138b8','run/tickets-run-2',2,'TrainingStarted',1,'2026-01-05T09:26:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","attempt":1,"adapter":"tickets-v2","method":"qlora","base_model":"SmolLM2","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","seed":1,"hyperparameters":{"rank":16,"learning_rate":0.0002}}',X'1B126EED774342022AB16523C67ECFC3677725846839ACC64203550E806118AC',X'8CFF8D36DD3BC0CE22A3E072AE57E83058AFEDDEE27F268584A10E53C86F2E94');
INSERT INTO "events" VALUES(27,'01a20e86-8a50-703d-9fea-502ddf2f4459','run/tickets-run-2',3,'TrainingProgressed',1,'2026-01-05T09:27:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","step":30,"of":60,"loss":1.5}',X'8CFF8D36DD3BC0CE22A3E072AE57E83058AFEDDEE27F268584A10E53C86F2E94',X'D05E983B255EA878C1DED014C2870F9EB3BD85778EC0CECA53A07B703E806FD9');
INSERT INTO "events" VALUES(28,'01a20e86-8a50-70bf-a00d-e28d8419aa4c','run/tickets-run-2',4,'TrainingSucceeded',1,'2026-01-05T09:28:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","steps":60,"epochs":3.0,"seconds":41.0,"train_loss":0.9,"eval_accuracy":0.75,"temperature":1.2,"peak_memory_mb":900.0,"stopped":"steps"}',X'D05E983B255EA878C1DED014C2870F9EB3BD85778EC0CECA53A07B703E806FD9',X'8C7876E5F6D2411549B9175B44088A848CAF72900DD594E549E6000BB4F7AD8D');
INSERT INTO "events" VALUES(29,'01a20e86-8a51-7044-a98a-a1f0efef42fc','run/tickets-run-2',5,'AdapterRegistered',1,'2026-01-05T09:29:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","adapter":"tickets-v2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","control":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","method":"qlora","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","temperature":1.2}',X'8C7876E5F6D2411549B9175B44088A848CAF72900DD594E549E6000BB4F7AD8D',X'2D43F39595D31F436431F98C33623C9A9C31A68AB6A9C1C60A68284AD4BEACB8');
INSERT INTO "events" VALUES(30,'01a20e86-8a51-7082-b2c1-1ff5cadf394c','run/tickets-run-2',6,'EvaluationStarted',1,'2026-01-05T09:30:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","attempt":1,"candidate":"tickets-v2","champion":"tickets-v1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'2D43F39595D31F436431F98C33623C9A9C31A68AB6A9C1C60A68284AD4BEACB8',X'578E2BBD11BF986BAC689E4BE2E1C01042BDBCB9DABC034B3C4D536E8D220B14');
INSERT INTO "events" VALUES(31,'01a20e86-8a51-7193-b385-3facaeae6259','run/tickets-run-2',7,'EvaluationSucceeded',1,'2026-01-05T09:31:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'578E2BBD11BF986BAC689E4BE2E1C01042BDBCB9DABC034B3C4D536E8D220B14',X'C192768B6A32E765C3AB2ADDC67318AEE1C189A5F093D29D68D8F8DE3E44726E');
INSERT INTO "events" VALUES(32,'01a20e86-8a52-72bf-8c00-09ed5cedbce5','run/tickets-run-2',8,'CandidateJudged',1,'2026-01-05T09:32:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","candidate":"tickets-v2","champion":"tickets-v1","verdict":"reject","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v2 gains 30 points over zero-shot@1"}',X'C192768B6A32E765C3AB2ADDC67318AEE1C189A5F093D29D68D8F8DE3E44726E',X'9273390320385C886BB3368A62CE00198B354D53646DAE1CEA6F2E6E00A27A37');
INSERT INTO "events" VALUES(33,'01a20e86-8a52-73bb-b16d-3c075747ff39','run/tickets-run-2',9,'CandidateRejected',1,'2026-01-05T09:33:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","candidate":"tickets-v2","reason":"too weak"}',X'9273390320385C886BB3368A62CE00198B354D53646DAE1CEA6F2E6E00A27A37',X'C26A840C570C75E764546172A59984539686A7C94288ED8283897F8237A9DBCE');
INSERT INTO "events" VALUES(34,'01a20e86-8a5d-72cd-85aa-eb7576210052','record/rec-001',3,'FeedbackReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","disagrees":true,"answered_by":"zero-shot@1","source":"cli"}',X'C26A840C570C75E764546172A59984539686A7C94288ED8283897F8237A9DBCE',X'36987141A0DCED51CF2E2886DEA47C90E9BA82E592C407F75E0075C1817C03F1');
INSERT INTO "events" VALUES(35,'01a20e86-8a5e-708b-8538-a2ce3eba9d06','record/rec-001',4,'LabelGiven',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","audit":false,"annotator":"kim"}',X'36987141A0DCED51CF2E2886DEA47C90E9BA82E592C407F75E0075C1817C03F1',X'C99841BD05DBFF06424842189939056506E64CF0B190FDCE9A7C182CDAB24703');
INSERT INTO "events" VALUES(36,'01a20e86-8a5e-7198-a464-7173cf1d3577','record/rec-004',3,'LabelGiven',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'C99841BD05DBFF06424842189939056506E64CF0B190FDCE9A7C182CDAB24703',X'EECCA2F7248CD74ADBD8437E73CA6BF37384FD8CD51D4249511FA5E0D2CFF648');
INSERT INTO "events" VALUES(37,'01a20e86-8a5e-70a9-ba9b-110197e729f9','record/rec-004',4,'LabelWithdrawn',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'EECCA2F7248CD74ADBD8437E73CA6BF37384FD8CD51D4249511FA5E0D2CFF648',X'BA5BDD071272B739723E70A83C4BD64A9A950888719C86EE1FEC7ACA461FACA0');
INSERT INTO "events" VALUES(38,'01a20e86-8a5f-72f1-84ea-fb99a055b2f6','deployment/tickets',2,'AdapterRolledBack',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"zero-shot@1","kind":"prompt","rolled_back":"tickets-v1","reason":"worse"}',X'BA5BDD071272B739723E70A83C4BD64A9A950888719C86EE1FEC7ACA461FACA0',X'EEECC120B505DDABFAF8E29631324D125CB9E21E9504F0E31207919A495CC8B8');
INSERT INTO "events" VALUES(39,'01a20e86-8a5f-7318-8a1a-fef98844ae54','loop',1,'LoopPaused',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'{"reason":"maintenance"}',X'EEECC120B505DDABFAF8E29631324D125CB9E21E9504F0E31207919A495CC8B8',X'9AE00CA70A3A3F59BF71F00570ADD51E208DF72B07BAB0A89DCF939E1A725C01');
CREATE TABLE lease (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                epoch INTEGER NOT NULL,
                holder TEXT NOT NULL
            );
INSERT INTO "lease" VALUES(1,0,'');
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO "migrations" VALUES(1,'log, lease, texts and cursors');
INSERT INTO "migrations" VALUES(2,'history by type');
CREATE TABLE near_duplicates (
                task TEXT NOT NULL,
                band BLOB NOT NULL,
                record_id TEXT NOT NULL,
                PRIMARY KEY (task, band, record_id)
            ) WITHOUT ROWID;
CREATE TABLE "records" (
	record_id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	received_at VARCHAR NOT NULL, 
	side VARCHAR NOT NULL, 
	audit BOOLEAN NOT NULL, 
	audit_probability FLOAT NOT NULL, 
	cluster VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	chars INTEGER NOT NULL, 
	text_digest VARCHAR NOT NULL, 
	answer VARCHAR, 
	answered_by VARCHAR NOT NULL, 
	confidence FLOAT, 
	margin FLOAT, 
	feedback VARCHAR, 
	label VARCHAR, 
	annotator VARCHAR NOT NULL, 
	labelled_at VARCHAR, 
	label_position INTEGER NOT NULL, 
	via VARCHAR NOT NULL, 
	review VARCHAR NOT NULL, 
	reasons JSON NOT NULL, 
	priority FLOAT NOT NULL, 
	erased BOOLEAN NOT NULL, 
	PRIMARY KEY (record_id)
);
INSERT INTO "records" VALUES('rec-006','tickets',6,'2026-01-05T09:06:00.000000+00:00','train',0,0.3,'rec-006','inbox',27,'95a68c5eee1cccdaa7569aaae614b57d595d6f7efa60862ac671f2d614501899','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-003','tickets',3,'2026-01-05T09:03:00.000000+00:00','train',0,0.3,'rec-003','inbox',27,'593f39d72132b6d80fc53bf870c10074575bfd82a39ceac60b5b29303ed77a75','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',7.0,0);
INSERT INTO "records" VALUES('rec-002','tickets',2,'2026-01-05T09:02:00.000000+00:00','train',0,0.3,'rec-002','inbox',27,'e487eb19fb29c8891bf212d798e6b69d34ada2ea3d456054c4d7699555c41c1b','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',8.0,0);
INSERT INTO "records" VALUES('rec-001','tickets',1,'2026-01-05T09:01:00.000000+00:00','train',0,0.3,'rec-001','inbox',27,'7dc15adae10c371d1a4275e545a325e64fd62da3c613fc3acc6a99fbdb3b4ae3','general','zero-shot@1',0.61,0.2,'billing','billing','kim','2026-01-05T09:02:00.000000+00:00',35,'review','done','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',9.0,0);
INSERT INTO "records" VALUES('rec-004','tickets',4,'2026-01-05T09:04:00.000000+00:00','exam',1,0.3,'rec-004','inbox',27,'1c646cea27bd5e3d7c4773e2f921f239e48f82798bf232ba7d4e0201e65a77f8','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,37,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',6.0,0);
INSERT INTO "records" VALUES('rec-005','tickets',5,'2026-01-05T09:05:00.000000+00:00','train',0,0.3,'rec-005','inbox',27,'c2139168c9bc21bd88722bb545a0b70e67b9bfbd42a6c5685d3eed29cbdbb6d6','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-008','tickets',8,'2026-01-05T09:08:00.000000+00:00','exam',1,0.3,'rec-008','inbox',27,'60284fe1e909f2df8b17690419966a07c7afdc8f50b856c7f2189e80eabf7559','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-007','tickets',7,'2026-01-05T09:07:00.000000+00:00','train',0,0.3,'rec-007','inbox',27,'4774fb3ea88c26e179819e90b4644bf504e8b2a4cb560cd6dc56d02feeebcc85','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-evil','tickets',9,'2026-01-05T09:09:00.000000+00:00','train',0,0.3,'rec-evil','inbox',41,'ff938a4ccba9a7d67c7d7bdde8c2b5fc96b7c096ccaaac066ed6ff65c81a4f3a','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"misclassified","detail":"margin 0.20","score":0.2}]',0.1,0);
CREATE TABLE "runs" (
	run_id VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	"plan" VARCHAR NOT NULL, 
	"trigger" VARCHAR NOT NULL, 
	dataset VARCHAR NOT NULL, 
	labels_train INTEGER NOT NULL, 
	train INTEGER NOT NULL, 
	valid INTEGER NOT NULL, 
	exam INTEGER NOT NULL, 
	hard_exam INTEGER NOT NULL, 
	per_class JSON NOT NULL, 
	curation JSON NOT NULL, 
	warnings JSON NOT NULL, 
	adapter VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	prompt VARCHAR NOT NULL, 
	base_model VARCHAR NOT NULL, 
	base_digest VARCHAR NOT NULL, 
	quantisation VARCHAR NOT NULL, 
	seed INTEGER NOT NULL, 
	hyperparameters JSON NOT NULL, 
	epoch_cap_exceeded BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	resumed_from INTEGER NOT NULL, 
	evaluation_id VARCHAR NOT NULL, 
	step INTEGER NOT NULL, 
	"of" INTEGER NOT NULL, 
	loss FLOAT, 
	eval_loss FLOAT, 
	eval_accuracy FLOAT, 
	seconds FLOAT NOT NULL, 
	peak_memory_mb FLOAT NOT NULL, 
	stopped VARCHAR NOT NULL, 
	artifact VARCHAR NOT NULL, 
	verdict VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	started_at VARCHAR, 
	ended_at VARCHAR, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('tickets-run-2','tickets',25,'reject','standard','50 labels','sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354',50,42,8,40,6,'{"billing":20,"general":22}','[{"step":"near-duplicates","count":2,"detail":"removed"}]','["urgent has 1 example"]','tickets-v2','qlora','zero-shot@1','SmolLM2','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4',1,'{"rank":16,"learning_rate":0.0002}',0,1,0,'tickets-v2-look-1',60,60,0.9,NULL,0.75,41.0,900.0,'steps','sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee','reject','tickets-v2 gains 30 points over zero-shot@1','2026-01-05T09:25:00.000000+00:00','2026-01-05T09:31:00.000000+00:00');
INSERT INTO "runs" VALUES('tickets-run-1','tickets',16,'promote','standard','50 labels','sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060',50,42,8,40,6,'{"billing":20,"general":22}','[{"step":"near-duplicates","count":2,"detail":"removed"}]','["urgent has 1 example"]','tickets-v1','qlora','zero-shot@1','SmolLM2','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4',1,'{"rank":16,"learning_rate":0.0002}',0,1,0,'tickets-v1-look-1',60,60,0.9,NULL,0.75,41.0,900.0,'steps','sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1','promote','tickets-v1 gains 30 points over zero-shot@1','2026-01-05T09:16:00.000000+00:00','2026-01-05T09:22:00.000000+00:00');
CREATE TABLE "tasks" (
	task VARCHAR NOT NULL, 
	prompt VARCHAR NOT NULL, 
	prompt_digest VARCHAR NOT NULL, 
	prompt_scores JSON NOT NULL, 
	harvested_up_to INTEGER NOT NULL, 
	paused BOOLEAN NOT NULL, 
	paused_reason VARCHAR NOT NULL, 
	PRIMARY KEY (task)
);
INSERT INTO "tasks" VALUES('tickets','zero-shot@1','dddddddd','[{"prompt":"zero-shot@1","correct":30,"n":60,"abstained":2,"seconds":4.0}]',0,0,'');
INSERT INTO "tasks" VALUES('','','','[]',0,1,'maintenance');
CREATE TABLE texts (
                record_id TEXT PRIMARY KEY,
                task TEXT NOT NULL,
                text TEXT,
                salt BLOB,
                digest TEXT NOT NULL,
                customer TEXT NOT NULL,
                meta TEXT NOT NULL
            );
INSERT INTO "texts" VALUES('rec-001','tickets','ticket number 1
please help',X'6F84139E4D83DE190F82A3EC73F8028C','7dc15adae10c371d1a4275e545a325e64fd62da3c613fc3acc6a99fbdb3b4ae3','','{}');
INSERT INTO "texts" VALUES('rec-002','tickets','ticket number 2
please help',X'EAC5EF9FD8AE5C9F775D74CEE9BE17D5','e487eb19fb29c8891bf212d798e6b69d34ada2ea3d456054c4d7699555c41c1b','','{}');
INSERT INTO "texts" VALUES('rec-003','tickets','ticket number 3
please help',X'C2306DC42D63C2684494BAFBB7FBC8EB','593f39d72132b6d80fc53bf870c10074575bfd82a39ceac60b5b29303ed77a75','','{}');
INSERT INTO "texts" VALUES('rec-004','tickets','ticket number 4
please help',X'BDB25FD44CA1A9E53E1B94949E11D249','1c646cea27bd5e3d7c4773e2f921f239e48f82798bf232ba7d4e0201e65a77f8','','{}');
INSERT INTO "texts" VALUES('rec-005','tickets','ticket number 5
please help',X'AD6F1942B6F95F43E247FFB9D072ED14','c2139168c9bc21bd88722bb545a0b70e67b9bfbd42a6c5685d3eed29cbdbb6d6','','{}');
INSERT INTO "texts" VALUES('rec-006','tickets','ticket number 6
please help',X'C7AFA387F8756ECB4552789FA6398AB8','95a68c5eee1cccdaa7569aaae614b57d595d6f7efa60862ac671f2d614501899','','{}');
INSERT INTO "texts" VALUES('rec-007','tickets','ticket number 7
please help',X'83466FFAF78A600F51CA4AE7678A6467','4774fb3ea88c26e179819e90b4644bf504e8b2a4cb560cd6dc56d02feeebcc85','','{}');
INSERT INTO "texts" VALUES('rec-008','tickets','ticket number 8
please help',X'1DBB0EF1EFAE56395223BBF188E4A82B','60284fe1e909f2df8b17690419966a07c7afdc8f50b856c7f2189e80eabf7559','','{}');
INSERT INTO "texts" VALUES('rec-evil','tickets','[31mpay[0m me [bold]now[/bold] ‮evil1m',X'4356BC022DC4B47899F82866AE7C877B','ff938a4ccba9a7d67c7d7bdde8c2b5fc96b7c096ccaaac066ed6ff65c81a4f3a','','{}');
CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE INDEX texts_by_customer ON texts (customer) WHERE customer != '';
CREATE INDEX near_duplicates_by_record ON near_duplicates (record_id);
CREATE INDEX events_by_type ON events (type, position);
CREATE INDEX evaluations_by_task ON evaluations (task, position);
CREATE INDEX records_by_cluster ON records (task, cluster);
CREATE INDEX records_by_label ON records (task, side, label_position);
CREATE INDEX records_by_position ON records (task, position);
CREATE INDEX records_by_queue ON records (task, review, priority, position);
CREATE INDEX runs_by_task ON runs (task, position);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',39);
COMMIT;
