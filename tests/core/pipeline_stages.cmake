espalier_test(test_pipeline_stages SOURCES core/test_pipeline_stages.cpp
    LIBS espalier::pipeline_stages espalier::profile espalier::model espalier::evaluate espalier::recover espalier::session espalier::tokenizer espalier::checkpoint)
