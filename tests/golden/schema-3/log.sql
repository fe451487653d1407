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
INSERT INTO "adapters" VALUES('tickets','tickets-v2',29,'tickets-run-2','sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee','sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354','qlora','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4','zero-shot@1',1.2,'rejected','2026-01-05T09:29:00.000000+00:00');
INSERT INTO "adapters" VALUES('tickets','tickets-v1',20,'tickets-run-1','sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1','sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060','qlora','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','nf4','zero-shot@1',1.2,'retired','2026-01-05T09:20:00.000000+00:00');
CREATE TABLE "counters" (
	task VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (task, name, "key")
);
INSERT INTO "counters" VALUES('tickets','queue','exam',1);
INSERT INTO "counters" VALUES('tickets','answered','general',9);
INSERT INTO "counters" VALUES('tickets','open','uncertain',3);
INSERT INTO "counters" VALUES('tickets','received','train',7);
INSERT INTO "counters" VALUES('tickets','open','misclassified',1);
INSERT INTO "counters" VALUES('tickets','queue','train',3);
INSERT INTO "counters" VALUES('tickets','received','exam',2);
INSERT INTO "counters" VALUES('tickets','labelled','billing',1);
INSERT INTO "counters" VALUES('tickets','disagreed','general',1);
INSERT INTO "counters" VALUES('tickets','audit_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','train_labels','billing',1);
INSERT INTO "counters" VALUES('tickets','exam_labels','urgent',0);
INSERT INTO "counters" VALUES('tickets','labelled','urgent',0);
CREATE TABLE cursors (
                name TEXT PRIMARY KEY,
                position INTEGER NOT NULL,
                version INTEGER NOT NULL
            );
INSERT INTO "cursors" VALUES('read-tables',41,2);
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
INSERT INTO "events" VALUES(1,'01a20e86-8e21-7021-b9fa-5f53cf0aa15b','record/rec-001',1,'RecordReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'',X'0000000000000000000000000000000000000000000000000000000000000000',X'07F931991D5ED3A77A1D07E90283E58F31A9A9C67B639B446DF57B16E943643A');
INSERT INTO "events" VALUES(2,'01a20e86-8e2f-7125-9baa-76ec31614d3b','record/rec-002',1,'RecordReceived',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'',X'07F931991D5ED3A77A1D07E90283E58F31A9A9C67B639B446DF57B16E943643A',X'72DC95A85CD56E2F10EBE823FD339B4E978B6E18AF7C7FE41F1A59C2D5313DC9');
INSERT INTO "events" VALUES(3,'01a20e86-8e32-719e-a78c-6edcfd8ca9fa','record/rec-003',1,'RecordReceived',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'',X'72DC95A85CD56E2F10EBE823FD339B4E978B6E18AF7C7FE41F1A59C2D5313DC9',X'F33BFF07368C22B980CFAF7221BF01D260A4B7E211BD741771D1E870ED02B64F');
INSERT INTO "events" VALUES(4,'01a20e86-8e33-71e8-bd9d-e46cf36ad39c','record/rec-004',1,'RecordReceived',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'',X'F33BFF07368C22B980CFAF7221BF01D260A4B7E211BD741771D1E870ED02B64F',X'44ED61FCEBBEAF50A14B600134373B7FDD1240858E1D1397D6CCDD2006FD386F');
INSERT INTO "events" VALUES(5,'01a20e86-8e37-7190-8a02-7243d0452794','record/rec-005',1,'RecordReceived',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'',X'44ED61FCEBBEAF50A14B600134373B7FDD1240858E1D1397D6CCDD2006FD386F',X'289B4ADD7FEBA830821B9533F0149AE50FA15CF7F99DA5085C4A6A23A00BC3B8');
INSERT INTO "events" VALUES(6,'01a20e86-8e3b-7181-a3d2-d92928a39bc2','record/rec-006',1,'RecordReceived',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'',X'289B4ADD7FEBA830821B9533F0149AE50FA15CF7F99DA5085C4A6A23A00BC3B8',X'AF8E3BEE03FB142FD86A7BE8E0EC2A079204CA24EB4408466C8926EFF470F2DF');
INSERT INTO "events" VALUES(7,'01a20e86-8e3d-7162-9c19-a16b5cd1c243','record/rec-007',1,'RecordReceived',1,'2026-01-05T09:07:00.000000+00:00','daemon','','',0,'',X'AF8E3BEE03FB142FD86A7BE8E0EC2A079204CA24EB4408466C8926EFF470F2DF',X'826276606FBB3A6BFCCEC74C7C644284DCB63DFE47BB27796BE394FF3FBA3466');
INSERT INTO "events" VALUES(8,'01a20e86-8e3d-7178-b2b8-3d13102166e3','record/rec-008',1,'RecordReceived',1,'2026-01-05T09:08:00.000000+00:00','daemon','','',0,'',X'826276606FBB3A6BFCCEC74C7C644284DCB63DFE47BB27796BE394FF3FBA3466',X'0D10376447EF2B37F08FF310B29762837F68566D51CB12076855F252BE6E91C2');
INSERT INTO "events" VALUES(9,'01a20e86-8e3d-7134-96a4-a4802e692508','record/rec-evil',1,'RecordReceived',1,'2026-01-05T09:09:00.000000+00:00','daemon','','',0,'',X'0D10376447EF2B37F08FF310B29762837F68566D51CB12076855F252BE6E91C2',X'D03F78CE7AABF9790C54C58F74E1559A781AFF5F01FB18BECE1EBB61E61053DC');
INSERT INTO "events" VALUES(10,'01a20e86-8e3e-70fa-afac-94147b98beed','task/tickets',1,'PromptAdopted',1,'2026-01-05T09:10:00.000000+00:00','daemon','','',0,'',X'D03F78CE7AABF9790C54C58F74E1559A781AFF5F01FB18BECE1EBB61E61053DC',X'013F79FBE7DFE62F92F9E6FA1890B892E19D39FEC5EB221F485B4B57E5280356');
INSERT INTO "events" VALUES(11,'01a20e86-8e3e-72bf-b912-0453ebcaea00','record/rec-001',2,'ReviewRequested',1,'2026-01-05T09:11:00.000000+00:00','daemon','','',0,'',X'013F79FBE7DFE62F92F9E6FA1890B892E19D39FEC5EB221F485B4B57E5280356',X'DE33CE336ED49AAC88AD43A303BAFC09C40F08DB8431CA55D8E800071B44ACFA');
INSERT INTO "events" VALUES(12,'01a20e86-8e3e-73c7-b435-0d5a83241fdc','record/rec-002',2,'ReviewRequested',1,'2026-01-05T09:12:00.000000+00:00','daemon','','',0,'',X'DE33CE336ED49AAC88AD43A303BAFC09C40F08DB8431CA55D8E800071B44ACFA',X'6450CB1605D114F23E4B694896A3FCE780952270F6D96A5B903C4FE92000615F');
INSERT INTO "events" VALUES(13,'01a20e86-8e3f-7061-93a8-10131f131830','record/rec-003',2,'ReviewRequested',1,'2026-01-05T09:13:00.000000+00:00','daemon','','',0,'',X'6450CB1605D114F23E4B694896A3FCE780952270F6D96A5B903C4FE92000615F',X'10E45E4D9A52796BE3426DB44A928AD8E51636D70DAD3E4E35CBB336354FBB47');
INSERT INTO "events" VALUES(14,'01a20e86-8e3f-7080-8d33-657c9b778016','record/rec-004',2,'ReviewRequested',1,'2026-01-05T09:14:00.000000+00:00','daemon','','',0,'',X'10E45E4D9A52796BE3426DB44A928AD8E51636D70DAD3E4E35CBB336354FBB47',X'0F72AB93801826C53505971D77C2C9E891832AA2A453F46585DABCE472E050E9');
INSERT INTO "events" VALUES(15,'01a20e86-8e3f-73de-8209-b63b1f0b5365','record/rec-evil',2,'ReviewRequested',1,'2026-01-05T09:15:00.000000+00:00','daemon','','',0,'',X'0F72AB93801826C53505971D77C2C9E891832AA2A453F46585DABCE472E050E9',X'696C47CE66FC5F9E7229FF42BFC5AB1BFD9366714B2413857395E80B9D5692C5');
INSERT INTO "events" VALUES(16,'01a20e86-8e44-7340-b4aa-05302c6bc748','run/tickets-run-1',1,'DatasetFrozen',1,'2026-01-05T09:16:00.000000+00:00','daemon','','',0,'',X'696C47CE66FC5F9E7229FF42BFC5AB1BFD9366714B2413857395E80B9D5692C5',X'00170E2E1BC37E730F354E5B2854E7B192FFECB4B6DE4F8F5A3A76C949B5E489');
INSERT INTO "events" VALUES(17,'01a20e86-8e4b-7161-85fd-d6dcf763ad68','run/tickets-run-1',2,'TrainingStarted',1,'2026-01-05T09:17:00.000000+00:00','daemon','','',0,'',X'00170E2E1BC37E730F354E5B2854E7B192FFECB4B6DE4F8F5A3A76C949B5E489',X'0FBF7EBCA4CBAED363F0B4441070F118BEAF2E65BB47397D02F1683E21FFACA0');
INSERT INTO "events" VALUES(18,'01a20e86-8e4f-70d7-8353-6126aee720b2','run/tickets-run-1',3,'TrainingProgressed',1,'2026-01-05T09:18:00.000000+00:00','daemon','','',0,'',X'0FBF7EBCA4CBAED363F0B4441070F118BEAF2E65BB47397D02F1683E21FFACA0',X'6F1AA9105735461FFF62750660DD244656BFF10D40FE9BF7CA804A4369FD1D3B');
INSERT INTO "events" VALUES(19,'01a20e86-8e53-73dd-9fb0-01638ff39b5c','run/tickets-run-1',4,'TrainingSucceeded',1,'2026-01-05T09:19:00.000000+00:00','daemon','','',0,'',X'6F1AA9105735461FFF62750660DD244656BFF10D40FE9BF7CA804A4369FD1D3B',X'5DACB3AB8A279FA98FF0BB82ACA2E89423768A01C62448A5C0C879ECEA6BE7B0');
INSERT INTO "events" VALUES(20,'01a20e86-8e57-7233-a2c9-0e40ec312346','run/tickets-run-1',5,'AdapterRegistered',1,'2026-01-05T09:20:00.000000+00:00','daemon','','',0,'',X'5DACB3AB8A279FA98FF0BB82ACA2E89423768A01C62448A5C0C879ECEA6BE7B0',X'E28B1D395576289F5E82ACAD736C90D76CA8529B0611A69AFD9E41735D500B7D');
INSERT INTO "events" VALUES(21,'01a20e86-8e5b-719f-856e-190b9616964a','run/tickets-run-1',6,'EvaluationStarted',1,'2026-01-05T09:21:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","attempt":1,"candidate":"tickets-v1","champion":"zero-shot@1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'E28B1D395576289F5E82ACAD736C90D76CA8529B0611A69AFD9E41735D500B7D',X'075E3CA971EBE6AF6117F4381D085470E3C38556F2DAC65E8F56BC9BE86FB59D');
INSERT INTO "events" VALUES(22,'01a20e86-8e5f-7174-a739-81e2400c18c9','run/tickets-run-1',7,'EvaluationSucceeded',1,'2026-01-05T09:22:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","artifact":"sha256-3920d6bf66b84ca4689e1bd743a3b35a14ff897fc3a91a86359befb7a1f53060","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v1","kind":"adapter","decoding":"score","n":40,"correct":32,"accuracy":0.8,"low":0.7000000000000001,"high":0.9,"recall":{"billing":0.8},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'075E3CA971EBE6AF6117F4381D085470E3C38556F2DAC65E8F56BC9BE86FB59D',X'E1E0D32CFBEF8C9F386B53708291179676735364D0B87B76C9960D5A10BFD8CB');
INSERT INTO "events" VALUES(23,'01a20e86-8e63-71ef-96dc-93c974d764b0','run/tickets-run-1',8,'CandidateJudged',1,'2026-01-05T09:23:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-1","evaluation_id":"tickets-v1-look-1","candidate":"tickets-v1","champion":"zero-shot@1","verdict":"promote","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v1 gains 30 points over zero-shot@1"}',X'E1E0D32CFBEF8C9F386B53708291179676735364D0B87B76C9960D5A10BFD8CB',X'DBE277CF1B845874AFFF89CB5966AFC39BE93B32B9B6E5301EF731D093E4C621');
INSERT INTO "events" VALUES(24,'01a20e86-8e64-7001-ab1a-4ff617cdf843','deployment/tickets',1,'AdapterPromoted',1,'2026-01-05T09:24:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"tickets-v1","kind":"adapter","previous":"zero-shot@1","artifact":"sha256-fb3259fabe94efacddd096bc0b6a67dcd41c9b35751af86b6c3d9cd677b06fa1","run_id":"tickets-run-1","gain":0.3}',X'DBE277CF1B845874AFFF89CB5966AFC39BE93B32B9B6E5301EF731D093E4C621',X'753FD9E140B301981EFFDBD1CFC85D158E0DAE3A2C45569A7481BC1056142645');
INSERT INTO "events" VALUES(25,'01a20e86-8e6f-71dd-ad34-5e8c491037d4','run/tickets-run-2',1,'DatasetFrozen',1,'2026-01-05T09:25:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","up_to":24,"labels_train":50,"train":42,"valid":8,"exam":40,"hard_exam":6,"per_class":{"billing":20,"general":22},"curation":[{"step":"near-duplicates","count":2,"detail":"removed"}],"warnings":["urgent has 1 example"],"trigger":"50 labels"}',X'753FD9E140B301981EFFDBD1CFC85D158E0DAE3A2C45569A7481BC1056142645',X'FEDFB2EA0E0F3003061E8EC5C9048AA37F6022DC7F631FBA3815AE173EF6CFFB');
INSERT INTO "events" VALUES(26,'01a20e86-8e6f-71b6-8550-e9a0723d28d4','run/tickets-run-2',2,'TrainingStarted',1,'2026-01-05T09:26:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","attempt":1,"adapter":"tickets-v2","method":"qlora","base_model":"SmolLM2","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","seed":1,"hyperparameters":{"rank":16,"learning_rate":0.0002}}',X'FEDFB2EA0E0F3003061E8EC5C9048AA37F6022DC7F631FBA3815AE173EF6CFFB',X'20A988ECA6A4F21A63410483C1185BF3B8F67858E44C2D143594C388492582D2');
INSERT INTO "events" VALUES(27,'01a20e86-8e6f-70fa-8507-8b635b4229d8','run/tickets-run-2',3,'TrainingProgressed',1,'2026-01-05T09:27:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","step":30,"of":60,"loss":1.5}',X'20A988ECA6A4F21A63410483C1185BF3B8F67858E44C2D143594C388492582D2',X'AC0E21E5C6C4E2050D52C804645A3CC0F1004D852094CD1EFE56659DFA82C7C5');
INSERT INTO "events" VALUES(28,'01a20e86-8e70-71ce-8d1b-9298f1fc010e','run/tickets-run-2',4,'TrainingSucceeded',1,'2026-01-05T09:28:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","steps":60,"epochs":3.0,"seconds":41.0,"train_loss":0.9,"eval_accuracy":0.75,"temperature":1.2,"peak_memory_mb":900.0,"stopped":"steps"}',X'AC0E21E5C6C4E2050D52C804645A3CC0F1004D852094CD1EFE56659DFA82C7C5',X'730CDDBA56DEED08EF2DD0075E154FAC3A64F5FA2714552CE542A2170754BEBA');
INSERT INTO "events" VALUES(29,'01a20e86-8e70-732c-b320-a09acf5a9844','run/tickets-run-2',5,'AdapterRegistered',1,'2026-01-05T09:29:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","adapter":"tickets-v2","artifact":"sha256-c01b6f7410452e554ada55c08343d5255509b4e4c3387374a681b18ec212eeee","control":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","method":"qlora","base_digest":"sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","quantisation":"nf4","prompt":"zero-shot@1","temperature":1.2}',X'730CDDBA56DEED08EF2DD0075E154FAC3A64F5FA2714552CE542A2170754BEBA',X'E4B7B69AC1F738F3E262B3E6105C9D7647586FA25BE278A0DE180A7D0068F9A2');
INSERT INTO "events" VALUES(30,'01a20e86-8e70-7338-a774-9261398b02d3','run/tickets-run-2',6,'EvaluationStarted',1,'2026-01-05T09:30:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","attempt":1,"candidate":"tickets-v2","champion":"tickets-v1","baseline":"zero-shot@1","exam":40,"hard_exam":6,"look":1}',X'E4B7B69AC1F738F3E262B3E6105C9D7647586FA25BE278A0DE180A7D0068F9A2',X'F2FF469D2123CDD9E9F545069935A22F84DC45C66F26A8F3EB517BB2CDB3BE3E');
INSERT INTO "events" VALUES(31,'01a20e86-8e70-7366-bd43-58ef4e00677e','run/tickets-run-2',7,'EvaluationSucceeded',1,'2026-01-05T09:31:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","artifact":"sha256-791d804bedbce5a17f68ce97841bbde8d31f6ddf7472bbf425d25dd4bc567354","results":[{"answerer":"zero-shot@1","kind":"prompt","decoding":"score","n":40,"correct":20,"accuracy":0.5,"low":0.4,"high":0.6,"recall":{"billing":0.5},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3},{"answerer":"tickets-v2","kind":"adapter","decoding":"score","n":40,"correct":16,"accuracy":0.4,"low":0.30000000000000004,"high":0.5,"recall":{"billing":0.4},"abstained":0,"invalid":0,"latency_ms":21.0,"ece":0.05,"hard_n":6,"hard_correct":3}],"paired":[{"opponent":"zero-shot@1","decoding":"score","n":40,"gained":14,"lost":2,"difference":0.3,"low":0.1,"high":0.5,"p_value":0.004}],"seconds":12.0}',X'F2FF469D2123CDD9E9F545069935A22F84DC45C66F26A8F3EB517BB2CDB3BE3E',X'72E5D0A262C50E3E90BE38895B552764CAEECF26D6F26557AD1961A5F75A1F92');
INSERT INTO "events" VALUES(32,'01a20e86-8e71-70d2-8746-0ac9edb6fb2d','run/tickets-run-2',8,'CandidateJudged',1,'2026-01-05T09:32:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","evaluation_id":"tickets-v2-look-1","candidate":"tickets-v2","champion":"tickets-v1","verdict":"reject","checks":[{"name":"better than baseline","outcome":"pass","detail":"+30 points","value":0.3}],"summary":"tickets-v2 gains 30 points over zero-shot@1"}',X'72E5D0A262C50E3E90BE38895B552764CAEECF26D6F26557AD1961A5F75A1F92',X'AF9156F04D0F951736D2F74DCAAB342ABE763FCA309BD3AF744CC1F2EF58D22A');
INSERT INTO "events" VALUES(33,'01a20e86-8e71-7076-879f-a9a3c61b9929','run/tickets-run-2',9,'CandidateRejected',1,'2026-01-05T09:33:00.000000+00:00','daemon','','',0,'{"task":"tickets","run_id":"tickets-run-2","candidate":"tickets-v2","reason":"too weak"}',X'AF9156F04D0F951736D2F74DCAAB342ABE763FCA309BD3AF744CC1F2EF58D22A',X'15CF0185CBB9F6F391F94792C0716606ECBB3B0D43A80ED7CD4FAB6B231CDB8F');
INSERT INTO "events" VALUES(34,'01a20e86-8e8a-7232-86b0-0f57835654d0','record/rec-001',3,'FeedbackReceived',1,'2026-01-05T09:01:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","disagrees":true,"answered_by":"zero-shot@1","source":"cli"}',X'15CF0185CBB9F6F391F94792C0716606ECBB3B0D43A80ED7CD4FAB6B231CDB8F',X'B8011104118F542DAAC99B9DC26F3B310FA199AA2578DB273F909CA26376F118');
INSERT INTO "events" VALUES(35,'01a20e86-8e8b-707d-888d-77e68916dcb1','record/rec-001',4,'LabelGiven',1,'2026-01-05T09:02:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-001","label":"billing","side":"train","audit":false,"annotator":"kim"}',X'B8011104118F542DAAC99B9DC26F3B310FA199AA2578DB273F909CA26376F118',X'23EAD651021D1D634DC2550975B93E941E886A985145F617EC99198B4E46F7F9');
INSERT INTO "events" VALUES(36,'01a20e86-8e8b-73db-9a8d-9f3f005f87b0','record/rec-004',3,'LabelGiven',1,'2026-01-05T09:03:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'23EAD651021D1D634DC2550975B93E941E886A985145F617EC99198B4E46F7F9',X'265D2B7E0636DF1109D1B07035697ACA187F2788A5E7FD9A9C7F0F32B9B94AA1');
INSERT INTO "events" VALUES(37,'01a20e86-8e8c-73ae-a1ea-8b33b61b98b4','record/rec-004',4,'LabelWithdrawn',1,'2026-01-05T09:04:00.000000+00:00','daemon','','',0,'{"task":"tickets","record_id":"rec-004","label":"urgent","side":"exam","audit":true,"annotator":"kim"}',X'265D2B7E0636DF1109D1B07035697ACA187F2788A5E7FD9A9C7F0F32B9B94AA1',X'DC1CA513D09671528588D982C2A068A2505856E76D0083CEFF396C5FEA136D95');
INSERT INTO "events" VALUES(38,'01a20e86-8e8c-7066-8a2d-ecdfebc5e649','deployment/tickets',2,'AdapterRolledBack',1,'2026-01-05T09:05:00.000000+00:00','daemon','','',0,'{"task":"tickets","answerer":"zero-shot@1","kind":"prompt","rolled_back":"tickets-v1","reason":"worse"}',X'DC1CA513D09671528588D982C2A068A2505856E76D0083CEFF396C5FEA136D95',X'666A2D2D383653D15431996AE5035CCE02F0E0873C9308F8A4BE16FBD050295A');
INSERT INTO "events" VALUES(39,'01a20e86-8e8c-7257-ae48-6d28a6362df5','loop',1,'LoopPaused',1,'2026-01-05T09:06:00.000000+00:00','daemon','','',0,'{"reason":"maintenance"}',X'666A2D2D383653D15431996AE5035CCE02F0E0873C9308F8A4BE16FBD050295A',X'115F15675C163620FED1CA76C6F58815DD724CE1CFF6A8843F35D24D288AFFFE');
INSERT INTO "events" VALUES(40,'6d5e7caa-d46b-5412-8120-5d2aa2817b12','archive',1,'Archived',1,'2026-01-05T09:06:00.000000+00:00','cli','','',0,'{"first":1,"last":12,"artifact":"sha256-85f8778944c5e54d5e2a22dabf2216fc10579bfb15ae5eff7f579a3f948bcb03","prev_hash":"0000000000000000000000000000000000000000000000000000000000000000","last_hash":"6450cb1605d114f23e4b694896a3fce780952270f6d96a5b903c4fe92000615f","bytes":768}',X'115F15675C163620FED1CA76C6F58815DD724CE1CFF6A8843F35D24D288AFFFE',X'5B4CC611E944BA27B3D3FB221041A63D58E0EBDD6ADB58D18A24AD942C8AAB5D');
INSERT INTO "events" VALUES(41,'f52a887b-e8e5-5793-bce9-0f03525a71bd','archive',2,'Archived',1,'2026-01-05T09:06:00.000000+00:00','cli','','',0,'{"first":13,"last":20,"artifact":"sha256-b22f61216213b305da857b07eb6aac753c4609fb6c73766f7fe927f8c60255ab","prev_hash":"6450cb1605d114f23e4b694896a3fce780952270f6d96a5b903c4fe92000615f","last_hash":"e28b1d395576289f5e82acad736c90d76ca8529b0611a69afd9e41735d500b7d","bytes":668}',X'5B4CC611E944BA27B3D3FB221041A63D58E0EBDD6ADB58D18A24AD942C8AAB5D',X'CE764FE0842702E8345694D538DEE894754B6C47FF4D7C51C3C0ADCA6A1B023C');
CREATE TABLE lease (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                epoch INTEGER NOT NULL,
                holder TEXT NOT NULL
            );
INSERT INTO "lease" VALUES(1,0,'');
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO "migrations" VALUES(1,'log, lease, texts and cursors');
INSERT INTO "migrations" VALUES(2,'history by type');
INSERT INTO "migrations" VALUES(3,'sealed segments of old history');
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
INSERT INTO "records" VALUES('rec-007','tickets',7,'2026-01-05T09:07:00.000000+00:00','train',0,0.3,'rec-007','inbox',27,'167661790d90892a7518ca60f78c9d8df8204be880cade1dc4561fc47cce44fc','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-006','tickets',6,'2026-01-05T09:06:00.000000+00:00','train',0,0.3,'rec-006','inbox',27,'4bf42702eb1b0dc1abc8386e33f2aca79b8050df1842c32a2169c3ba5b2b22f6','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-005','tickets',5,'2026-01-05T09:05:00.000000+00:00','train',0,0.3,'rec-005','inbox',27,'0dc7d0c099357ea957ac50107051b9f6be1742b71b26121018d7457e78a2bb49','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
INSERT INTO "records" VALUES('rec-004','tickets',4,'2026-01-05T09:04:00.000000+00:00','exam',1,0.3,'rec-004','inbox',27,'282e0bc589f3b64b3b7a0f0654a0b96e584092c7e11a9787063812b57a991cd4','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,37,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',6.0,0);
INSERT INTO "records" VALUES('rec-003','tickets',3,'2026-01-05T09:03:00.000000+00:00','train',0,0.3,'rec-003','inbox',27,'6dce75ced0346c9a173e67e214290382ed7c058c1468caa20097ef41595a8e97','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',7.0,0);
INSERT INTO "records" VALUES('rec-001','tickets',1,'2026-01-05T09:01:00.000000+00:00','train',0,0.3,'rec-001','inbox',27,'665031a4a6c9a91d7444f6e559c01ad8e5652681334253e2162df6829697ddf7','general','zero-shot@1',0.61,0.2,'billing','billing','kim','2026-01-05T09:02:00.000000+00:00',35,'review','done','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',9.0,0);
INSERT INTO "records" VALUES('rec-evil','tickets',9,'2026-01-05T09:09:00.000000+00:00','train',0,0.3,'rec-evil','inbox',41,'0548dd3b99d542d6b550438268878b05172d200cd06f955836ce622ebe7414ca','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"misclassified","detail":"margin 0.20","score":0.2}]',0.1,0);
INSERT INTO "records" VALUES('rec-002','tickets',2,'2026-01-05T09:02:00.000000+00:00','train',0,0.3,'rec-002','inbox',27,'c33dff328ea289a36cb271f2f0f6be1d319e6052328f28cb3b939d471fc71aef','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','open','[{"name":"uncertain","detail":"margin 0.20","score":0.2}]',8.0,0);
INSERT INTO "records" VALUES('rec-008','tickets',8,'2026-01-05T09:08:00.000000+00:00','exam',1,0.3,'rec-008','inbox',27,'f8eda28e799e66b1a05d94c80afbde602f0366d4ed61b45b59aebc5a2b94150c','general','zero-shot@1',0.61,0.2,NULL,NULL,'',NULL,0,'','','[]',0.0,0);
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
CREATE TABLE segments (
                first INTEGER PRIMARY KEY,
                last INTEGER NOT NULL,
                artifact TEXT NOT NULL
            );
INSERT INTO "segments" VALUES(1,12,'sha256-85f8778944c5e54d5e2a22dabf2216fc10579bfb15ae5eff7f579a3f948bcb03');
INSERT INTO "segments" VALUES(13,20,'sha256-b22f61216213b305da857b07eb6aac753c4609fb6c73766f7fe927f8c60255ab');
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
please help',X'F6DECD654683418C16DD629DCD39459E','665031a4a6c9a91d7444f6e559c01ad8e5652681334253e2162df6829697ddf7','','{}');
INSERT INTO "texts" VALUES('rec-002','tickets','ticket number 2
please help',X'CA0940BE52C32581EACC150A2E13CFC7','c33dff328ea289a36cb271f2f0f6be1d319e6052328f28cb3b939d471fc71aef','','{}');
INSERT INTO "texts" VALUES('rec-003','tickets','ticket number 3
please help',X'3F126EAB5FAE2D408641353C0FBA5A88','6dce75ced0346c9a173e67e214290382ed7c058c1468caa20097ef41595a8e97','','{}');
INSERT INTO "texts" VALUES('rec-004','tickets','ticket number 4
please help',X'AC1D8FF9155B1201C7C2886ACEBB1EC0','282e0bc589f3b64b3b7a0f0654a0b96e584092c7e11a9787063812b57a991cd4','','{}');
INSERT INTO "texts" VALUES('rec-005','tickets','ticket number 5
please help',X'B43AB3010F2FE6A9F4E336065EAD1C97','0dc7d0c099357ea957ac50107051b9f6be1742b71b26121018d7457e78a2bb49','','{}');
INSERT INTO "texts" VALUES('rec-006','tickets','ticket number 6
please help',X'7BDAF8BD6AC0AE2C63446D9557893AB6','4bf42702eb1b0dc1abc8386e33f2aca79b8050df1842c32a2169c3ba5b2b22f6','','{}');
INSERT INTO "texts" VALUES('rec-007','tickets','ticket number 7
please help',X'C21B1B049D5887BB8D581176C486664B','167661790d90892a7518ca60f78c9d8df8204be880cade1dc4561fc47cce44fc','','{}');
INSERT INTO "texts" VALUES('rec-008','tickets','ticket number 8
please help',X'54294AE7C1ACEEACBE8A9638239D77B4','f8eda28e799e66b1a05d94c80afbde602f0366d4ed61b45b59aebc5a2b94150c','','{}');
INSERT INTO "texts" VALUES('rec-evil','tickets','[31mpay[0m me [bold]now[/bold] ‮evil1m',X'8ECBB40A66EE3571ECCAAEE8E084B8FD','0548dd3b99d542d6b550438268878b05172d200cd06f955836ce622ebe7414ca','','{}');
CREATE INDEX texts_by_customer ON texts (customer) WHERE customer != '';
CREATE INDEX near_duplicates_by_record ON near_duplicates (record_id);
CREATE INDEX events_by_type ON events (type, position);
CREATE INDEX evaluations_by_task ON evaluations (task, position);
CREATE INDEX records_by_cluster ON records (task, cluster);
CREATE INDEX records_by_label ON records (task, side, label_position);
CREATE INDEX records_by_position ON records (task, position);
CREATE INDEX records_by_queue ON records (task, review, priority, position);
CREATE INDEX runs_by_task ON runs (task, position);
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER segments_are_never_updated BEFORE UPDATE ON segments
               BEGIN SELECT RAISE(ABORT, 'segments are append-only'); END;
CREATE TRIGGER segments_are_never_deleted BEFORE DELETE ON segments
               BEGIN SELECT RAISE(ABORT, 'segments are append-only'); END;
CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
               WHEN new.payload != '' OR old.payload = ''
                 OR (new.position, new.event_id, new.stream, new.version, new.type, new.schema_version,
                     new.recorded_at, new.actor, new.correlation_id, new.causation_id, new.epoch,
                     new.prev_hash, new.hash)
                 IS NOT (old.position, old.event_id, old.stream, old.version, old.type, old.schema_version,
                     old.recorded_at, old.actor, old.correlation_id, old.causation_id, old.epoch,
                     old.prev_hash, old.hash)
                 OR NOT EXISTS (SELECT 1 FROM segments WHERE old.position BETWEEN first AND last)
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',41);
COMMIT;
