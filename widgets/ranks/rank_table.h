// Kept experts and ranks per layer: layer | kept | mean rank of gate, up, down | dense matrices | MiB. To read; copies as TSV (C locale).
#pragma once

#include "experts/selection.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QTableView>

namespace espalier
{

class RankTableModel;

class RankTable final : public QTableView
{
    Q_OBJECT
public:
    explicit RankTable(SelectionModel* selection, QWidget* parent = nullptr);
    QString tsv() const;

public slots:
    void setPlan(const espalier::ModelShape& shape, const espalier::CompressionPlan& plan);

protected:
    void keyPressEvent(QKeyEvent* event) override;

private:
    void follow();

    RankTableModel* m_model;
    SelectionModel* m_selection;
    bool m_following = false;
};

}  // namespace espalier
