espalier_test(test_receptive_field SOURCES core/test_receptive_field.cpp
    LIBS espalier::receptive_field espalier::search espalier::profile espalier::model espalier::evaluate espalier::tokenizer espalier::checkpoint)
