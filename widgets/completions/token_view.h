// A completion as running text, token by token: those that differ from the other side's are marked, hovering or the cursor keys say a
// token's probability. A table for assistive technology. GUI thread.
#pragma once

#include "completions/completion_state.h"
#include "look/plot_table.h"

#include <QAbstractScrollArea>

#include <vector>

namespace espalier
{

class TokenView final : public QAbstractScrollArea, public AccessibleTable
{
    Q_OBJECT
public:
    explicit TokenView(const QString& name, QWidget* parent = nullptr);
    // `beside`: the other side, which marks are made against.
    void set(const Completion& completion, const Completion& beside);
    QString text() const;  // what is shown, without marks
    bool marked(int token) const;

    int tableRows() const override { return static_cast<int>(m_completion.tokens.size()); }
    int tableColumns() const override { return 1; }
    QString tableRowName(int row) const override;
    QString tableColumnName(int) const override { return m_completion.name; }
    QString tableCellName(int row, int) const override { return tableRowName(row); }
    QString tableCellValue(int row, int) const override;
    QRect tableCellRect(int row, int) const override;
    bool tableCellSelected(int row, int) const override { return row == m_current; }
    QPoint tableCurrent() const override { return m_current < 0 ? QPoint(-1, -1) : QPoint(0, m_current); }
    void setTableCurrent(int row, int) override;

protected:
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    bool viewportEvent(QEvent* event) override;

private:
    // Where a token stands, in the text's own coordinates: one rectangle per line that it touches.
    struct Piece {
        int token = 0;
        QRect place;
        QString text;
    };
    void layOut();
    int tokenAt(const QPoint& position) const;

    Completion m_completion;
    Completion m_beside;
    std::vector<Piece> m_pieces;
    int m_height = 0;
    int m_current = -1;
};

}  // namespace espalier
